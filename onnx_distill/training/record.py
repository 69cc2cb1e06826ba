"""What a run remembers between steps, in and out of a checkpoint, and the recipe by which one knows its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import onnx

from onnx_distill.config import DistillConfig, TrainConfig
from onnx_distill.data import Images
from onnx_distill.errors import InputError
from onnx_distill.option_names import spelled_out
from onnx_distill.training.average import Average
from onnx_distill.training.optimizer import Optimizer
from onnx_distill.training.score import Score, fall
from onnx_distill.training.state import State


@dataclass
class Record:
    """What a run remembers between steps, besides parameters and optimiser; all of it is in a checkpoint."""

    best: dict[str, np.ndarray]
    lowest: np.ndarray  # KL [n] of the held-out images, of the evaluation whose mean is the lowest
    best_score: float  # share of the held-out images
    best_kl: float
    best_epoch: float
    scores: list[tuple[float, float]]
    steps: int  # updates that the training has
    held_out: int = 0  # images
    done: int = 0
    seconds: float = 0.0
    loss: float | None = None
    misses: int = 0
    data: str = ""  # fingerprint of all images, those held out among them; '': not taken
    recipe: str = ""  # of the student, the images and every choice that a result depends on
    rate: float = 1.0  # share of the learning rate that is left after rewinds
    rewinds: int = 0


def begun(parameters: dict[str, np.ndarray], first: Score, steps: int, recipe: str, data: str = "") -> Record:
    """Before the first step."""
    return Record(
        best=copied(parameters),
        lowest=first.kl,
        best_score=first.share,
        best_kl=first.mean_kl,
        best_epoch=0.0,
        scores=[(0.0, first.share)],
        steps=steps,
        held_out=len(first.kl),
        recipe=recipe,
        data=data,
    )


def begun_again(record: Record, parameters: dict[str, np.ndarray], first: Score) -> Record:
    """Before the first step once more, at half the rate; parameters: as they were then."""
    again = begun(parameters, first, record.steps, record.recipe, record.data)
    return replace(again, seconds=record.seconds, rate=record.rate / 2, rewinds=record.rewinds + 1)


def keep(record: Record, score: Score, epoch: float, values: dict[str, np.ndarray]) -> None:
    """An evaluation goes into the record, and its parameters where its KL is the lowest so far, or not above that by more than chance.

    Of few held-out images the lowest of many evaluations is mostly a lucky one, and the last is trained the longest.
    """
    record.scores.append((epoch, score.share))
    record.misses += 1
    rise, error = fall(score.kl, record.lowest)
    if rise < 0:
        record.lowest, record.misses = score.kl, 0
    if rise < 0 or (rise < error < math.inf and record.best_epoch):
        record.best, record.best_score, record.best_kl, record.best_epoch = copied(values), score.share, score.mean_kl, epoch


def copied(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in arrays.items()}


def state_of(record: Record, optimizer: Optimizer, average: Average) -> State:
    """All that `restored` needs, in arrays of its own."""
    facts = {
        field.name: getattr(record, field.name) for field in fields(record) if field.name not in ("best", "lowest", "done")
    }
    groups = {
        "optimizer": optimizer.state(),
        "average": average.state(),
        "best": record.best,
        "lowest": {"kl": record.lowest},
    }
    arrays = {f"{group}/{name}": np.array(a) for group, members in groups.items() for name, a in members.items()}
    return State(record.done, arrays, facts)


def restored(state: State, optimizer: Optimizer, average: Average) -> Record:
    """The record of a state, whose arrays are put back where they were. Raises InputError for a state of another run."""
    groups: dict[str, dict[str, np.ndarray]] = {"optimizer": {}, "average": {}, "best": {}, "lowest": {}}
    for name, array in state.arrays.items():
        group, _, member = name.partition("/")
        groups[group][member] = array
    try:
        optimizer.restore(groups["optimizer"])
        average.restore(groups["average"])
    except ValueError as error:
        raise InputError(f"the checkpoint is of another student or recipe ({error}); choose another folder.") from None
    scores = [tuple(pair) for pair in state.facts["scores"]]
    return Record(
        copied(groups["best"]), np.array(groups["lowest"]["kl"]), done=state.step, **{**state.facts, "scores": scores}
    )


def recipe_of(models: Sequence[onnx.ModelProto], images: Images, distill: DistillConfig, config: TrainConfig) -> str:
    """A fingerprint of what a result depends on, limits of time and patience aside."""
    unlimited = replace(config, max_minutes=0.0, patience=0, save_every=0, preflight=True, profile="")
    choices = f"({len(images)}, {spelled_out(distill)}, {spelled_out(unlimited)})"
    digest = hashlib.sha256(choices.encode())
    for model in models:
        digest.update(model.SerializeToString(deterministic=True))
    return digest.hexdigest()


def check_data(state: State | None, data: str) -> None:
    """Raises InputError for a state of other images."""
    if state is not None and data and state.facts.get("data", data) not in ("", data):
        raise InputError(
            f"the checkpoint at step {state.step} was trained on other images: their files or labels have changed since. Put them back, "
            "begin anew with --overwrite, or choose another folder."
        )


def check_recipe(state: State, recipe: str) -> None:
    """Raises InputError for a state of another recipe."""
    if state.facts.get("recipe") != recipe:
        raise InputError(
            f"the checkpoint at step {state.step} is of another student or recipe; wanted the same command as before. "
            "Repeat it, or choose another folder."
        )
