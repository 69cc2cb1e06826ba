"""One training with several seeds: each in a folder of its own, all judged by the same held-out images, the best one kept.

A seed that is done leaves trained.qdq.onnx and, written last, trained.json; a run that is continued takes it from there.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Callable

import onnx

from onnx_distill import model as models
from onnx_distill.config import TrainConfig
from onnx_distill.errors import InputError
from onnx_distill.model import replacing
from onnx_distill.pipeline import Watch
from onnx_distill.run_folder import CONFIG, LOG, RunFolder, made_folder
from onnx_distill.settings import read_settings
from onnx_distill.state import StateStore
from onnx_distill.train import Checkpoint, Trained

STUDENT, FACTS = "trained.qdq.onnx", "trained.json"
Distill = Callable[[TrainConfig, Watch, StateStore], Trained]


@dataclass(frozen=True)
class Seeds:
    """Seed -> what came of it, in the order of training."""

    trained: dict[int, Trained]

    @property
    def scores(self) -> dict[int, float]:
        """Seed -> the best score on the held-out images, 0..1."""
        return {seed: trained.best.score for seed, trained in self.trained.items()}

    @property
    def best(self) -> int:
        """The seed with the highest score; of equal ones the first."""
        return max(self.scores, key=lambda seed: self.scores[seed])

    def facts(self) -> dict[str, Any]:
        """For JSON: each seed's score, the best seed, median, lowest and highest score."""
        scores = self.scores
        spread = {"median": median(scores.values()), "lowest": min(scores.values()), "highest": max(scores.values())}
        return {"scores": {str(seed): score for seed, score in scores.items()}, "seed": self.best, **spread}

    def __str__(self) -> str:
        low, high = min(self.scores.values()), max(self.scores.values())
        return (
            f"seed {self.best} is the best of {len(self.trained)}: median {100 * median(self.scores.values()):.2f} %, "
            f"{100 * low:.2f} to {100 * high:.2f} % on held-out images"
        )


def train_seeds(
    distill: Distill,
    config: TrainConfig,
    count: int,
    folder: RunFolder,
    command: str,
    options: dict[str, Any],
    watch: Watch,
    resume: bool = False,
) -> Seeds:
    """Train with seeds config.seed and up, each into folder/seed-K; Ctrl-C ends with the seeds so far, the interrupted one among them.

    distill: one training with the configuration given, its progress and its checkpoints. options: of the command, which each
    seed's config.yaml repeats for that seed alone. Raises InputError for a seed that was done with other options.
    """
    seeds = range(config.seed, config.seed + count)
    places = {
        seed: RunFolder(folder.path / f"seed-{seed}", resume, folder.log_every, watch.warning, folder.tensorboard)
        for seed in seeds
    }
    done: dict[int, Trained] = {}
    for seed, place in places.items():
        alone = replace(
            config, seed=seed, split_seed=config.held_out_seed, preflight=config.preflight and not done, profile=""
        )
        own = {**options, "seed": seed, "split_seed": config.held_out_seed, "output": str(place.path)}
        found = _kept(place.path, own) if resume else None
        if found is None:
            watch.stage(f"seed {seed}")
            place.write_config(command, own)
            found = _trained(distill, alone, watch, place, folder)
        done[seed] = found
        if found.stopped:
            watch.warning(f"seed {seed} stopped: {found.stopped}")
        if found.interrupted:
            watch.warning(f"interrupted at seed {seed}, {len(done)} of {count}; --resume goes on there")
            break
    made = Seeds(done)
    shutil.copyfile(places[made.best].path / LOG, folder.path / LOG)
    return made


def _trained(distill: Distill, config: TrainConfig, watch: Watch, place: RunFolder, folder: RunFolder) -> Trained:
    def evaluation(checkpoint: Checkpoint) -> None:
        folder.begin()
        place.evaluation(checkpoint)

    with made_folder(place.path):
        (place.path / FACTS).unlink(missing_ok=True)
        found = distill(config, watch.also(place.step, evaluation), place.store)
        if not found.interrupted:
            _keep(place, found)
    return found


def _keep(folder: RunFolder, trained: Trained) -> None:
    models.save(trained.best.student, folder.path / STUDENT)
    facts = {name: getattr(trained, name) for name in ("scores", "images", "step_seconds", "stopped")}
    with replacing(folder.path / FACTS) as temporary:
        temporary.write_text(json.dumps({**facts, "score": trained.best.score, "epoch": trained.best.epoch}))
    folder.finish()


def _kept(folder: Path, options: dict[str, Any]) -> Trained | None:
    """What a seed that was done came to; None for one that was not."""
    if not (folder / FACTS).is_file():
        return None
    before = read_settings(folder / CONFIG, list(options))
    if {**before, "output": ""} != {**options, "output": ""}:
        raise InputError(f"{folder} was trained with other options; repeat the same command, or choose another folder.")
    facts = json.loads((folder / FACTS).read_text())
    best = Checkpoint(onnx.load(str(folder / STUDENT)), facts["score"], facts["epoch"])
    scores = tuple((epoch, score) for epoch, score in facts["scores"])
    return Trained(best, scores, facts["images"], facts["step_seconds"], False, facts["stopped"])
