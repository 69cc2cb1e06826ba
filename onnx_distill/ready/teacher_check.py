"""Whether the float teacher does on these images what it was trained for: the first number to look at, for a preset that was forgotten,
channels in another order or labels counted from 1 spoil everything that comes after it, and silently."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from onnx_distill.data import PRESETS, Images, Preprocess
from onnx_distill.evaluate import top_k
from onnx_distill.numerics import log_softmax

NEAR_CHANCE = 0.25  # of the way from chance to 1: below, something is likely wrong
ONE_ANSWER = 0.95  # share of images with the same answer from which on a teacher without labels is doubted
TRIED = 200  # images on which other ways of reading them are tried
GAIN = 0.2  # of top-1, that one must bring to be named
FEWEST = 20  # images to judge by
DOUBT = "are the images read as it was trained on them? See --preset, --mean, --scale, --order, --label-offset."
SCALES = {
    "pixels 0 to 1 (--mean 0 --scale 0.00392157)": Preprocess(scale=(1 / 255,)),
    "pixels -1 to 1 (--mean 127.5 --scale 0.00784314)": Preprocess(mean=(127.5,), scale=(1 / 127.5,)),
    **{f"--preset {name}": Preprocess().replace(**values) for name, values in PRESETS.items()},
}


@dataclass(frozen=True)
class TeacherCheck:
    """found: what the teacher does on the images, a line. doubt: why that looks wrong and what may mend it, or ''."""

    found: str
    doubt: str = ""

    def told(self, note: Callable[[str], None], warning: Callable[[str], None]) -> None:
        """The line as a note, or with its doubt as a warning."""
        warning(f"{self.found}: {self.doubt}") if self.doubt else note(self.found)


def teacher_check(
    logits: np.ndarray,
    images: Images,
    answers: Callable[[np.ndarray], np.ndarray],
    which: str = "images",
    name: str = "teacher",
) -> TeacherCheck:
    """Doubts a teacher that is near chance on these images, or gives nearly all of them one answer.

    logits: [n, classes] of the teacher for the images. answers: gives its logits for a batch float32 [n, channels, height, width].
    which, name: what the images and the teacher are called.
    """
    best, counted = logits.argmax(axis=1), f"{len(images):,} {which}"
    if images.labels is None:
        share, nats = np.bincount(best).max() / len(best), float(entropy(logits).mean())
        doubted = share >= ONE_ANSWER and len(best) >= FEWEST
        found = f"{name}: its commonest answer is given for {100 * share:.1f} % of {counted}; its entropy is {nats:.2f} nats"
        return TeacherCheck(found, DOUBT if doubted else "")
    right, chance = top_k(logits, images.labels, 1), np.bincount(images.labels).max() / len(images)
    found = f"{name}: top-1 {100 * right:.1f} % of {counted} (chance {100 * chance:.1f} %)"
    if right >= chance + NEAR_CHANCE * (1 - chance) or len(best) < FEWEST:
        return TeacherCheck(found)
    return TeacherCheck(found, DOUBT + _better(logits, images, images.labels, answers))


def entropy(logits: np.ndarray) -> np.ndarray:
    """Of the softmax of each row, in nats [n]: 0 for one certain class, log(classes) for no idea. logits: float32 [n, classes]."""
    logs = log_softmax(logits)
    return -(np.exp(logs) * logs).sum(axis=1)


def _better(logits: np.ndarray, images: Images, labels: np.ndarray, answers: Callable[[np.ndarray], np.ndarray]) -> str:
    """What would help, in words, or ''."""
    few, labels = images.subset(np.arange(min(TRIED, len(images)))), labels[:TRIED]
    found = {how: top_k(answers(batch), labels, 1) for how, batch in _otherwise(few)}
    for shift in (-1, 1):
        shifted = labels + shift
        if shifted.min() >= 0 and shifted.max() < logits.shape[1]:
            found[f"labels counted from {'one more' if shift > 0 else 'one less'} (--label-offset)"] = top_k(
                logits[:TRIED], shifted, 1
            )
    best = max(found, key=lambda how: found[how], default="")
    if not best or found[best] < top_k(logits[:TRIED], labels, 1) + GAIN:
        return ""
    return f" With {best} it is right on {100 * found[best]:.1f} % of {len(few)}."


def _otherwise(images: Images) -> Iterator[tuple[str, np.ndarray]]:
    """Other ways of reading the images, in words, and the images read so."""
    usual = getattr(images, "preprocess", None)
    batch = images.read(np.arange(len(images)))
    if not isinstance(usual, Preprocess):
        return
    column = lambda values: np.array(values, np.float32)[:, None, None]  # noqa: E731
    pixels = batch / column(usual.scale) + column(usual.mean)
    other = "BGR" if usual.order == "RGB" else "RGB"
    turned = pixels[:, ::-1]
    for how, scale in {"": usual, **SCALES}.items():
        if len(scale.mean) not in (1, pixels.shape[1]):
            continue
        for words, order in ((how, pixels), (f"{how} and --order {other}" if how else f"--order {other}", turned)):
            if words and (pixels.shape[1] == 3 or order is pixels):
                yield words, ((order - column(scale.mean)) * column(scale.scale)).astype(np.float32)
