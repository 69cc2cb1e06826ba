"""A teacher of little data: a ResNet on rendered photos of one object in eight classes, 64x64, 2,500 to train on.

    python scripts/photos_teacher.py --to data/photos

Needs PyTorch and Pillow (the `teacher` extra, `accept`). An image is a textured background with clutter, one object of
varying size, pose and colour, things that hide part of it, light, blur, noise and JPEG. Float top-1 is 82.55 % on fresh
images and 98.16 % on those it was trained on (seed 0). Writes the images (train-2500.npz, test-2000.npz: images uint8
[n, 64, 64, 3], labels) and the network as PyTorch exports it: photos-folded.onnx, with BatchNorm folded into Conv, and
photos-batchnorm.onnx, where it is a node; both end in a Gemm. photos-*-softmax.onnx have a Softmax after it.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter
from torch import nn

SIZE, FINE = 64, 2  # pixels of a side; objects are drawn FINE times as large, so that their edges are smooth
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, as most recipes have it

# An object is a list of parts, drawn in order: (corners [n, 2] in -1..1 with y downwards, colour 0 or 1, brightness).


def oval(x, y, rx, ry):
    turn = np.linspace(0, 2 * np.pi, 25)[:-1]
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], 1)


def box(x0, y0, x1, y1):
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def mug(rng):
    waist, top, turn = rng.uniform(0.35, 0.6), rng.uniform(-0.9, -0.5), np.linspace(-np.pi / 2, np.pi / 2, 12)
    ring = np.concatenate([r * np.stack([np.cos(turn), np.sin(turn)], 1)[::step] for r, step in ((0.45, 1), (0.28, -1))])
    body = np.array([(-0.55, top), (0.55, top), (waist, 0.8), (-waist, 0.8)])
    parts = [(ring + (0.48, 0.05), 0, 0.8), (body, 0, 1.0), (oval(0, top, 0.55, 0.14), 0, 0.6)]
    return parts + [(box(-0.5, 0.0, 0.5, rng.uniform(0.1, 0.4)), 1, 1.0)] * int(rng.integers(2))


def chair(rng):
    seat, legs = rng.uniform(0.0, 0.25), rng.uniform(0.08, 0.14)
    feet = ((-0.35, 0.8, 0.6), (0.5, 0.8, 0.6), (-0.55, 1, 0.8), (0.3, 1, 0.8))
    parts = [(box(x, seat, x + legs, y), 0, light) for x, y, light in feet]
    parts.append((np.array([(-0.4, seat - 0.1), (0.62, seat - 0.1), (0.44, seat + 0.14), (-0.58, seat + 0.14)]), 1, 1.0))
    if rng.random() < 0.5:
        return parts + [(box(-0.45, -1, -0.1, seat), 0, 0.9)]
    bars = [(box(x, -0.95, x + 0.1, seat), 0, 0.9) for x in (-0.45, -0.1, 0.25, 0.5)]
    return parts + bars + [(box(-0.45, -1.0, 0.6, -0.8), 0, 1.0)]


def tree(rng):
    parts = [(box(-0.12, 0.1, 0.12, 1), 1, 0.6)]
    if rng.random() < 0.5:
        tiers = [(-1.0, -0.2, 0.45), (-0.6, 0.3, 0.6), (-0.2, 0.7, 0.75)]
        corners = [np.array([(0, top), (half, low), (-half, low)]) for top, low, half in tiers]
        return parts + [(corner, 0, 1.2 + corner[0, 1] / 3) for corner in corners[::-1]]
    spots = rng.uniform((-0.4, -0.7, 0.3, 0.8), (0.4, 0.0, 0.5, 1.1), (6, 4))
    return parts + [(oval(x, y, r, r), 0, light) for x, y, r, light in spots]


def house(rng):
    eaves, half = rng.uniform(-0.3, 0.0), rng.uniform(0.6, 0.8)
    parts = [(box(0.25, -0.9, 0.45, eaves), 1, 0.7)] * int(rng.integers(2)) + [(box(-half, eaves, half, 0.9), 0, 1.0)]
    parts.append((np.array([(-half - 0.15, eaves), (rng.uniform(-0.2, 0.2), -0.95), (half + 0.15, eaves)]), 1, 0.9))
    door = rng.uniform(-0.45, 0.2)
    windows = [(box(x, eaves + 0.15, x + 0.22, eaves + 0.4), 0, 0.4) for x in (-0.5, -0.1, 0.3)[: rng.integers(1, 4)]]
    return parts + [(box(door, 0.4, door + 0.25, 0.9), 1, 0.5), *windows]


def car(rng):
    front, back, roof = rng.uniform(-0.7, -0.3), rng.uniform(0.4, 0.9), rng.uniform(-0.6, -0.4)
    cabin = np.array([(front, -0.05), (front + 0.25, roof), (back - 0.2, roof), (back, -0.05)])
    parts = [(cabin, 0, 0.9), ((cabin - cabin.mean(0)) * (0.8, 0.65) + cabin.mean(0), 1, 0.6)]
    parts += [(box(-1, -0.1, 1, 0.4), 0, 1.0), (box(-1, 0.3, 1, 0.42), 0, 0.6)]
    return parts + [(oval(x, 0.4, r, r), 1, b) for x in (-0.55, 0.55) for r, b in ((0.25, 0.2), (0.11, 0.9))]


def bird(rng):
    up, parts = rng.uniform(-0.9, 0.6), [(box(x, 0.3, x + 0.06, 0.9), 1, 0.6) for x in (-0.1, 0.12)[: rng.integers(3)]]
    parts += [(np.array([(0.3, -0.05), (1, rng.uniform(-0.4, 0.3)), (0.95, 0.35), (0.2, 0.3)]), 0, 0.7)]
    parts += [(oval(0, 0.1, 0.55, 0.32), 0, 1.0), (oval(-0.5, -0.25, 0.24, 0.24), 0, 1.1)]
    parts += [(np.array([(-0.68, -0.35), (-1.0, -0.2), (-0.68, -0.12)]), 1, 1.0), (oval(-0.55, -0.3, 0.05, 0.05), 1, 0.1)]
    return parts + [(np.array([(-0.25, 0.0), (0.3, up), (0.4, 0.15)]), 1, 0.8)]


def fish(rng):
    tall, fork = rng.uniform(0.3, 0.5), rng.uniform(0.55, 0.8)
    parts = [(np.array([(0.4, 0), (1, -0.45), (fork, 0), (1, 0.45)]), 1, 0.8)]
    parts += [(np.array([(-0.3, -0.2), (0.1, -0.75), (0.35, -0.1)]), 1, 0.9), (oval(-0.2, 0, 0.75, tall), 0, 1.0)]
    stripes = [(box(x, -0.6 * tall, x + 0.08, 0.6 * tall), 1, 1.0) for x in (-0.3, -0.05, 0.2)[: rng.integers(4)]]
    return parts + [*stripes, (oval(-0.65, -0.08, 0.09, 0.09), 1, 1.3), (oval(-0.65, -0.08, 0.05, 0.05), 1, 0.1)]


def lamp(rng):
    low, narrow, wide = rng.uniform(-0.35, 0.0), rng.uniform(0.2, 0.4), rng.uniform(0.5, 0.75)
    parts = [(box(-0.06, low, 0.06, 0.85), 1, 0.6), (oval(0, 0.88, rng.uniform(0.3, 0.5), 0.12), 1, 0.8)]
    if rng.random() < 0.4:
        parts.append((oval(0, 0.5, 0.22, 0.36), 1, 0.9))
    return parts + [(np.array([(-narrow, -0.95), (narrow, -0.95), (wide, low), (-wide, low)]), 0, 1.2)]


OBJECTS = (mug, chair, tree, house, car, bird, fish, lamp)


def grain(rng, roughness: float) -> np.ndarray:
    """Noise float [SIZE, SIZE] of standard deviation 1: octaves of 2 to 32 cells a side, each `roughness` of the last."""
    total, weight = np.zeros((SIZE, SIZE)), 1.0
    for cells in (2, 4, 8, 16, 32):
        rough = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
        total += weight * np.asarray(rough.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        weight *= roughness
    return (total - total.mean()) / total.std()


def painted(shapes: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Colours float [SIZE, SIZE, 3] and cover [SIZE, SIZE, 1] in 0..1 of polygons (corners in pixels, colour)."""
    canvas = Image.new("RGBA", (SIZE * FINE, SIZE * FINE))
    draw = ImageDraw.Draw(canvas)
    for corners, colour in shapes:
        fill = (*(int(c) for c in np.clip(colour, 0, 255)), 255)
        draw.polygon([tuple(corner) for corner in (corners * FINE).tolist()], fill=fill)
    pixels = np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64)
    return pixels[..., :3], pixels[..., 3:] / 255


def posed(rng, corners: list[np.ndarray], centre: np.ndarray, radius: float, tilt: float) -> list[np.ndarray]:
    """The corners turned by up to `tilt` radians, mirrored, sheared, stretched, `radius` pixels large around the centre."""
    angle, stretch = rng.uniform(-tilt, tilt), np.exp(rng.uniform(-0.25, 0.25))
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    shape = np.array([(stretch * rng.choice((-1, 1)), rng.uniform(-0.25, 0.25)), (0, 1 / stretch)])
    return [centre + radius * corner @ (turn @ shape).T for corner in corners]


def clutter(rng, count: int, smallest: float, largest: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ovals, boxes, triangles and bars of random place, pose and colour, radii in pixels."""
    triangle = np.array([(-1, 0.6), (1, 0.6), (0, -0.8)])
    kinds, shapes = (oval(0, 0, 1, 0.7), box(-1, -0.6, 1, 0.6), triangle, box(-1, -0.08, 1, 0.08)), []
    for corners in (kinds[i] for i in rng.integers(0, 4, count)):
        centre, radius = rng.uniform(0, SIZE, 2), rng.uniform(smallest, largest)
        shapes.append((posed(rng, [corners], centre, radius, np.pi)[0], rng.uniform(20, 235, 3)))
    return shapes


def scene(rng, label: int) -> np.ndarray:
    """One image uint8 [SIZE, SIZE, 3] with the object of the label."""

    def lay(image, shapes):
        colours, cover = painted(shapes)
        textured = colours + rng.uniform(5, 25) * grain(rng, rng.uniform(0.5, 0.9))[..., None]
        return image * (1 - cover) + textured * cover

    near, far = rng.uniform(30, 225, (2, 3))
    blend = 1 / (1 + np.exp(-rng.uniform(0.5, 3) * grain(rng, rng.uniform(0.4, 0.9)) - np.linspace(-2, 2, SIZE)[:, None]))
    image = near * blend[..., None] + far * (1 - blend[..., None]) + rng.uniform(5, 25) * grain(rng, 0.9)[..., None]
    image = lay(image, clutter(rng, rng.integers(2, 7), 4, 15))

    parts, radius = OBJECTS[label](rng), rng.uniform(14, 26)
    centre = rng.uniform(0.75 * radius, SIZE - 0.75 * radius, 2)
    corners = posed(rng, [part[0] for part in parts], centre, radius, 0.35)
    colours = near + rng.choice((-1, 1), (2, 3)) * rng.uniform(20, 140, (2, 3))  # some stand out, some hardly do
    image = lay(image, [(corner, colours[part[1]] * part[2]) for corner, part in zip(corners, parts)])
    image = lay(image, clutter(rng, rng.integers(0, 3), 3, 9))

    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.5)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    image = image * (rng.uniform(0.6, 1.2) + slope * (np.cos(angle) * x + np.sin(angle) * y))[..., None]
    blurred = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    noisy = np.asarray(blurred) + rng.normal(0, rng.uniform(1, 12), (SIZE, SIZE, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=int(rng.integers(35, 90)))
    return np.asarray(Image.open(file))


def render(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [count, 64, 64, 3] and labels int64 [count]; image i depends on seed and i alone."""
    generators = [np.random.default_rng((seed, i)) for i in range(count)]
    labels = np.array([rng.integers(len(OBJECTS)) for rng in generators], np.int64)
    return np.stack([scene(rng, label) for rng, label in zip(generators, labels)]), labels


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.downsample = nn.Identity() if same else projection

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet18(nn.Module):
    """images float32 [n, 3, h, w] -> logits [n, classes]; ResNet-18 with a 3x3 stem and `width` channels in place of 64."""

    def __init__(self, width: int = 32, classes: int = len(OBJECTS)):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        pairs = enumerate(zip(sizes, sizes[1:]))
        stages = [nn.Sequential(Block(inner, outer, 2 if i else 1), Block(outer, outer, 1)) for i, (inner, outer) in pairs]
        self.layers = nn.Sequential(*stages)
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.layers(x), 1), 1))


def normalized(images: np.ndarray) -> torch.Tensor:
    """What the network wants, float32 [n, 3, 64, 64], of images uint8 [n, 64, 64, 3]."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # stays channels last in memory
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def shifted(images: torch.Tensor, pixels: int) -> torch.Tensor:
    """The images, each mirrored at random and shifted by up to so many pixels; zeros come in at the edges."""
    n, _, h, w = images.shape
    padded = F.pad(images, (pixels,) * 4).permute(0, 2, 3, 1)
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, n, 1, 1))
    columns = torch.where(torch.rand(n, 1, 1) < 0.5, torch.arange(w), torch.arange(w).flip(0))
    return padded[torch.arange(n)[:, None, None], torch.arange(h)[None, :, None] + dy, columns + dx].permute(0, 3, 1, 2)


def train(
    model: nn.Module, images: np.ndarray, labels: np.ndarray, epochs: int = 30, batch: int = 64, lr: float = 0.1
) -> None:
    """Trains the model in place: SGD with momentum, one cycle, shifts of up to 6 pixels and mirror images."""
    inputs, targets = normalized(images), torch.from_numpy(labels)
    steps = epochs * (len(inputs) // batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.2, cycle_momentum=False)
    for epoch in range(epochs):
        model.train()
        start, total = time.time(), 0.0
        order = torch.randperm(len(inputs))[: len(inputs) // batch * batch].split(batch)
        for index in order:
            loss = F.cross_entropy(model(shifted(inputs[index], 6)), targets[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}: loss {total / len(order):.4f}, {time.time() - start:.0f} s", file=sys.stderr, flush=True)


def accuracy(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of the images whose class the model gets right."""
    model.eval()
    with torch.no_grad():
        guesses = torch.cat([model(normalized(images[i : i + 250])).argmax(1) for i in range(0, len(images), 250)])
    return float((guesses.numpy() == labels).mean())


def export(model: nn.Module, path: Path, fold: bool) -> None:
    """Writes the model with BatchNorm folded into the convolutions, or as nodes; opset 17, free batch."""
    model = model.to(memory_format=torch.contiguous_format).eval()
    mode = torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE  # EVAL folds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of dynamo=False
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, SIZE, SIZE),),
            str(path),
            dynamo=False,
            opset_version=17,
            training=mode,
            do_constant_folding=fold,
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
        )
    onnx.checker.check_model(str(path), full_check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=Path("data/photos"), help="folder to write to")
    parser.add_argument("--train", type=int, default=2500, help="images to train on")
    parser.add_argument("--test", type=int, default=2000, help="images to test on")
    parser.add_argument("--width", type=int, default=32, help="channels of the first stage")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.to.mkdir(parents=True, exist_ok=True)

    sets = {}
    for number, (part, count) in enumerate((("train", args.train), ("test", args.test))):
        sets[part] = render(count, 2 * args.seed + number)
    model = ResNet18(args.width).to(memory_format=torch.channels_last)
    wall, cpu = time.time(), time.process_time()
    train(model, *sets["train"], args.epochs)
    wall, cpu = time.time() - wall, time.process_time() - cpu
    for part, (images, labels) in sets.items():
        print(f"float top-1 on {part}: {100 * accuracy(model, images, labels):.2f} %")
    print(f"trained in {wall:.0f} s ({cpu:.0f} s of CPU)")
    for part, (images, labels) in sets.items():  # only now, so that the folder's files change together
        np.savez(args.to / f"{part}-{len(images)}.npz", images=images, labels=labels)
    for name, fold in (("folded", True), ("batchnorm", False)):
        for ending, whole in (("", model), ("-softmax", nn.Sequential(model, nn.Softmax(1)))):
            path = args.to / f"photos-{name}{ending}.onnx"
            export(whole, path, fold)
            print(f"{path}: {path.stat().st_size} bytes")
    options = [f"--mean {mean}" for mean in MEAN] + [f"--scale {1 / std:.8g}" for std in STD]
    files = f"--data {args.to}/train-{args.train}.npz --test-data {args.to}/test-{args.test}.npz"
    print(f"onnx-distill options: {files}", *options)


if __name__ == "__main__":
    main()
