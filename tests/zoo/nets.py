"""Classifiers of the well-known families in torch, a few thousand weights each: `net(family)` gives one, ready to export.

Each ends in Softmax, has batch statistics that are not trivial, and answers differently for different images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 7
INPUTS = {"mlp": (1, 8, 8), "audio": (1, 128)}  # one example; the others take IMAGE
IMAGE = (3, 16, 16)


def net(family: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """(the network in inference mode, an example batch of 2)."""
    torch.manual_seed(seed)
    model = nn.Sequential(FAMILIES[family](), nn.Softmax(dim=1))
    images = torch.randn(64, *INPUTS.get(family, IMAGE))
    _settle(model, images)
    return model.eval(), images[:2]


def _settle(model: nn.Module, images: torch.Tensor) -> None:
    """Scales and shifts drawn at random, running statistics near those of the images, logits around 0 that spread by 1.5."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d, nn.LayerNorm)):
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias, 0, 0.2)
    with torch.no_grad():
        model.train()
        for _ in range(30):
            model(images)
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
                module.running_var *= torch.empty_like(module.running_var).uniform_(0.8, 1.25)
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        last.weight *= 1.5 / model.eval()[0](images).std(dim=0).mean()
        last.bias -= model[0](images).mean(dim=0)


class ConvBN(nn.Sequential):
    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1, act=nn.ReLU):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), *([act()] if act else []))


class Residual(nn.Module):
    """y = act(x + body(x)), through a 1x1 convolution where shapes differ."""

    def __init__(self, body, short=None, act=None):
        super().__init__()
        self.body, self.short, self.act = body, short or nn.Identity(), act or nn.Identity()

    def forward(self, x):
        return self.act(self.short(x) + self.body(x))


class Head(nn.Module):
    """Global average (as an average pool, or as a mean over the axes), Dropout, Linear."""

    def __init__(self, channels, how="pool"):
        super().__init__()
        self.how, self.drop, self.fc = how, nn.Dropout(0.2), nn.Linear(channels, CLASSES)

    def forward(self, x):
        if self.how == "mean":
            x = x.mean([2, 3])
        elif self.how == "view":
            x = F.avg_pool2d(x, 4)
            x = x.view(x.size(0), -1)
        else:
            x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.fc(self.drop(x))


class SqueezeExcite(nn.Module):
    def __init__(self, channels, act, gate):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x):
        s = F.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.up(self.act(self.down(s))))


def resnet(groups=1):
    def block(i, o, stride):
        body = nn.Sequential(ConvBN(i, o, 3, stride), ConvBN(o, o, 3, groups=groups, act=None))
        return Residual(body, ConvBN(i, o, 1, stride, act=None) if i != o else None, nn.ReLU())

    pool = nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(ConvBN(3, 16, 3), pool, block(16, 16, 1), block(16, 24, 2), Head(24, "view"))


def mobilenetv1():
    parts = [ConvBN(3, 16, 3, 2)]
    for i, o, stride in ((16, 32, 1), (32, 32, 1), (32, 48, 2)):
        parts += [ConvBN(i, i, 3, stride, i), ConvBN(i, o)]
    return nn.Sequential(*parts, Head(48))


def inverted(i, o, stride, act, excite=None):
    hidden = i * 3
    parts = [ConvBN(i, hidden, act=act), ConvBN(hidden, hidden, 3, stride, hidden, act=act)]
    body = nn.Sequential(*parts, *([excite(hidden)] if excite else []), ConvBN(hidden, o, act=None))
    return Residual(body) if stride == 1 and i == o else body


def mobilenetv2():
    blocks = [inverted(i, o, s, nn.ReLU6) for i, o, s in ((16, 16, 1), (16, 24, 2), (24, 24, 1))]
    return nn.Sequential(ConvBN(3, 16, 3, 2, act=nn.ReLU6), *blocks, ConvBN(24, 64, act=nn.ReLU6), Head(64, "mean"))


def mobilenetv3():
    def excite(channels):
        return SqueezeExcite(channels, nn.ReLU, nn.Hardsigmoid)

    blocks = [
        inverted(16, 16, 1, nn.ReLU, excite),
        inverted(16, 24, 2, nn.Hardswish),
        inverted(24, 24, 1, nn.Hardswish, excite),
    ]
    classifier = nn.Sequential(nn.Conv2d(48, 64, 1), nn.Hardswish())
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(
        ConvBN(3, 16, 3, 2, act=nn.Hardswish), *blocks, ConvBN(24, 48, act=nn.Hardswish), pool, classifier, Head(64)
    )


def efficientnet():
    def excite(channels):
        return SqueezeExcite(channels, nn.SiLU, nn.Sigmoid)

    blocks = [inverted(16, 16, 1, nn.SiLU, excite), inverted(16, 24, 2, nn.SiLU, excite)]
    return nn.Sequential(ConvBN(3, 16, 3, 2, act=nn.SiLU), *blocks, ConvBN(24, 64, act=nn.SiLU), Head(64))


class Shuffle(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass, half go through the branch, then the channels are shuffled."""

    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(ConvBN(half, half), ConvBN(half, half, 3, 1, half, act=None), ConvBN(half, half))

    def forward(self, x):
        one, other = x.chunk(2, dim=1)
        x = torch.cat([one, self.branch(other)], dim=1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenetv2():
    return nn.Sequential(
        ConvBN(3, 32, 3, 2), nn.MaxPool2d(3, 2, 1), Shuffle(32), Shuffle(32), ConvBN(32, 64), Head(64, "mean")
    )


class Dense(nn.Module):
    """DenseNet's layer: BatchNormalization before the convolution, and the input beside the output."""

    def __init__(self, i, growth):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(i), nn.ReLU(), nn.Conv2d(i, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.last = nn.Conv2d(16, growth, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.cat([x, self.last(self.body(x))], 1)


def densenet():
    transition = nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1, bias=False), nn.AvgPool2d(2, 2))
    parts = [ConvBN(3, 16, 3, 2), Dense(16, 8), Dense(24, 8), transition, Dense(16, 8), Dense(24, 8)]
    return nn.Sequential(*parts, nn.BatchNorm2d(32), nn.ReLU(), Head(32))


def vgg():
    def conv(i, o):
        return [nn.Conv2d(i, o, 3, padding=1), nn.ReLU(inplace=True)]

    features = [*conv(3, 16), nn.MaxPool2d(2), *conv(16, 24), *conv(24, 24), nn.MaxPool2d(2), *conv(24, 24), nn.MaxPool2d(2)]
    classifier = [nn.Flatten(), nn.Linear(96, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, CLASSES)]
    return nn.Sequential(*features, *classifier)


def regnet():
    def excite(channels):
        return SqueezeExcite(channels, nn.ReLU, nn.Sigmoid)

    def block(i, o, stride):
        body = nn.Sequential(ConvBN(i, o), ConvBN(o, o, 3, stride, o // 8), excite(o), ConvBN(o, o, act=None))
        return Residual(body, ConvBN(i, o, 1, stride, act=None) if stride > 1 or i != o else None, nn.ReLU())

    return nn.Sequential(ConvBN(3, 16, 3, 2), block(16, 24, 1), block(24, 32, 2), Head(32))


class ChannelsFirstNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm, self.gamma = nn.LayerNorm(channels), nn.Parameter(torch.empty(channels).uniform_(0.3, 0.8))
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext():
    stem = [nn.Conv2d(3, 16, 2, 2), ChannelsFirstNorm(16), ConvNeXtBlock(16)]
    second = [ChannelsFirstNorm(16), nn.Conv2d(16, 24, 2, 2), ConvNeXtBlock(24)]
    return nn.Sequential(*stem, *second, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.LayerNorm(24), nn.Linear(24, CLASSES))


class Encoder(nn.Module):
    """Pre-norm attention and MLP, written out as ViT implementations do."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(dim=-1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(b, n, c))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, width=24, heads=2):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, width, 4, 4), nn.Parameter(0.5 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.5 * torch.randn(1, 17, width))
        self.encoders = nn.Sequential(Encoder(width, heads), Encoder(width, heads))
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return self.fc(self.norm(self.encoders(x))[:, 0])


def mlp():
    layers = [nn.Flatten(), nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 32), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(32, CLASSES))


def audio():
    """One-dimensional convolutions, the second depthwise, over 128 samples."""

    def conv(i, o, kernel, stride, groups=1):
        return [
            nn.Conv1d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm1d(o),
            nn.LeakyReLU(0.1),
        ]

    body = [*conv(1, 16, 9, 4), *conv(16, 16, 3, 1, 16), *conv(16, 32, 1, 1), nn.MaxPool1d(2), *conv(32, 32, 3, 1, 4)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, CLASSES))


FAMILIES = {
    f.__name__: f
    for f in (
        *(resnet, mobilenetv1, mobilenetv2, mobilenetv3, efficientnet, shufflenetv2, densenet, vgg, regnet, convnext),
        *(mlp, audio),
    )
} | {"vit": ViT}
