"""What a PyTorch user does first: train a torchvision network on a folder of photos, export it, and type one command.

    .venv-torch/bin/python scripts/acceptance_torch.py --to runs/torch      # PyTorch, torchvision, onnxscript, Pillow, numpy

ResNet-18 and MobileNetV3 learn the photos of photos_teacher.py (data/photos; made where they are missing), and each is exported
by both exporters of PyTorch. The photos are JPEG files in a folder for each class, among them files cut short, in CMYK, turned by
EXIF, in a palette, and what else lies in such folders. Then `onnx-distill run MODEL --data PHOTOS --preset imagenet -o RUN`, with
no other option, has to work at the first try: exit code 0, a student, and a teacher that is as good as PyTorch says.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torchvision
from photos_teacher import OBJECTS, normalized, render
from PIL import Image

SIZE, RESIZED = 64, 73  # pixels of the network's input, and of a photo before its middle is cut out: 64 / 0.875
TURNED = 274  # EXIF: orientation
NETWORKS = {
    "resnet18": (torchvision.models.resnet18, 1),
    "mobilenetv3": (torchvision.models.mobilenet_v3_small, 3),
}  # times --epochs
FAR = 0.02  # of top-1, that the teacher's may be from PyTorch's: here a photo is cut and scaled in one step, there in two


def write_photos(folder: Path, images: np.ndarray, labels: np.ndarray) -> int:
    """A folder of JPEG files for each class; some of them odd, as in real collections. Gives the number of those cut short."""
    names, cut = sorted(one.__name__ for one in OBJECTS), 0
    for number, (pixels, label) in enumerate(zip(images, labels)):
        path = folder / names[label] / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels)
        if number % 50 == 1:
            picture.convert("CMYK").save(path, quality=95)
        elif number % 50 == 2:
            exif = Image.Exif()
            exif[TURNED] = 6  # shown turned by a quarter to the right
            picture.rotate(90, expand=True).save(path, quality=95, exif=exif)
        elif number % 50 == 3:
            picture.quantize(256).save(path.with_suffix(".png"))
        elif number % 250 == 4:
            data, cut = io.BytesIO(), cut + 1
            picture.save(data, "JPEG")
            path.write_bytes(data.getvalue()[:300])
        else:
            picture.save(path, quality=95)
    (folder / "notes.txt").write_text("not a photo\n")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._00000.jpg").write_bytes(b"\0")
    (folder / names[0] / ".DS_Store").write_bytes(b"\0")
    return cut


def as_preset(images: np.ndarray) -> np.ndarray:
    """Photos as the preset cuts them: resized, and the middle of it. uint8 [n, 64, 64, 3]."""
    edge = (RESIZED - SIZE) // 2
    resized = (np.asarray(Image.fromarray(pixels).resize((RESIZED, RESIZED), Image.BILINEAR)) for pixels in images)
    return np.stack([pixels[edge : edge + SIZE, edge : edge + SIZE] for pixels in resized])


def train(model: torch.nn.Module, images: np.ndarray, labels: np.ndarray, epochs: int, batch: int = 32) -> None:
    """Trains the model in place: AdamW, and a half of the images mirrored."""
    inputs, targets = normalized(images), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * (len(inputs) // batch))
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for index in torch.randperm(len(inputs))[: len(inputs) // batch * batch].split(batch):
            turned = inputs[index].flip(3) if index[0] % 2 else inputs[index]
            loss = torch.nn.functional.cross_entropy(model(turned), targets[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}: loss {total / (len(inputs) // batch):.3f}", file=sys.stderr, flush=True)


def export(model: torch.nn.Module, path: Path, dynamo: bool) -> None:
    """Writes the model as PyTorch's documentation does, with a free batch."""
    example, axes = torch.zeros(2, 3, SIZE, SIZE), {0: "batch"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            batch = torch.export.Dim("batch", min=1, max=4096)
            torch.onnx.export(model, (example,), str(path), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
        else:
            torch.onnx.export(
                model,
                (example,),
                str(path),
                dynamo=False,
                input_names=["x"],
                output_names=["y"],
                dynamic_axes={"x": axes, "y": axes},
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=Path("runs/torch"))
    parser.add_argument("--data", type=Path, default=Path("data/photos"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--onnx-distill", default=".venv/bin/onnx-distill")
    parser.add_argument("more", nargs="*", help="further options of onnx-distill run, after --")
    args = parser.parse_args()
    args.to.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    images, labels = _photos(args.data)
    folder = args.to / "photos"
    if not folder.exists():
        print(f"{folder}: {len(labels)} photos, {write_photos(folder, images, labels)} cut short", file=sys.stderr)
    for name, (network, times) in NETWORKS.items():
        if not (args.to / f"{name}.json").exists():
            model = network(num_classes=len(OBJECTS))
            train(model, as_preset(images), labels, times * args.epochs)
            share = top1_of_folder(model, folder)
            for dynamo in (False, True):
                export(model.eval(), path_of(args.to, name, dynamo), dynamo)
            (args.to / f"{name}.json").write_text(json.dumps(share))
    shares = {name: json.loads((args.to / f"{name}.json").read_text()) for name in NETWORKS}
    worked = [
        tried(args, path_of(args.to, name, dynamo), folder, shares[name]) for name in NETWORKS for dynamo in (False, True)
    ]
    print(f"{sum(worked)} of {len(worked)} worked at the first try")
    sys.exit(not all(worked))


def top1_of_folder(model: torch.nn.Module, folder: Path) -> float:
    """The share that PyTorch gets right of the files, read as torchvision's ImageFolder reads them; those that are cut short are left out."""
    names, right = sorted(one.__name__ for one in OBJECTS), []
    resize = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(RESIZED), torchvision.transforms.CenterCrop(SIZE)]
    )
    model.eval()
    for path in sorted(folder.glob("*/*.*")):
        try:
            picture = Image.open(path).convert("RGB")
        except OSError:
            continue
        with torch.no_grad():
            right.append(int(model(normalized(np.array(resize(picture))[None])).argmax()) == names.index(path.parent.name))
    return sum(right) / len(right)


def path_of(folder: Path, name: str, dynamo: bool) -> Path:
    return folder / f"{name}-{'dynamo' if dynamo else 'torchscript'}.onnx"


def _photos(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    found = folder / "train-2500.npz"
    images, labels = render(2500, 0) if not found.is_file() else _arrays(found)
    order = np.argsort(np.argsort([one.__name__ for one in OBJECTS]))  # ImageFolder numbers folders by their sorted names
    return images, order[labels]


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as arrays:
        return arrays["images"], arrays["labels"]


def tried(args, model: Path, photos: Path, share: float) -> bool:
    """Runs the one command, shows what the user saw, and says whether it worked."""
    out = args.to / f"run-{model.stem}"
    shutil.rmtree(out, ignore_errors=True)
    command = [args.onnx_distill, "run", model, "--data", photos, "--preset", "imagenet", "-o", out, *args.more]
    print(f"$ {' '.join(map(str, command))}", flush=True)
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    print(done.stderr + done.stdout, end="")
    print(f"exit code {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)
    if done.returncode or "Traceback" in done.stderr:
        return False
    line = [args.onnx_distill, "eval", model, "--data", photos, "--preset", "imagenet", "--no-latency", "--json"]
    top1 = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)[0]["top1"]
    print(f"{model} on all photos: {100 * top1:.1f} %; PyTorch {100 * share:.1f} %\n", flush=True)
    return abs(top1 - share) < FAR


if __name__ == "__main__":
    main()
