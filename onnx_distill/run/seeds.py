"""One training with several seeds: each in a folder of its own, all judged by the same held-out images, the best one kept.

A seed that is done leaves its student and a word on it (finished.py); a run that is continued takes it from there.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Callable

from onnx_distill import model as models
from onnx_distill.config import TrainConfig
from onnx_distill.run.finished import finished, leave_facts
from onnx_distill.run.folder import FACTS, LOG, TRAINED, RunFolder, made_folder
from onnx_distill.run.log_table import TABLE
from onnx_distill.run.watch import Watch
from onnx_distill.training.state import StateStore
from onnx_distill.training.trained import Checkpoint, Trained

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
        """The seed with the lowest KL to the teacher on the held-out images; of equal ones the first."""
        return min(self.trained, key=lambda seed: self.trained[seed].best.kl)

    @property
    def result(self) -> Trained:
        """The training of the best seed, unfinished where that of any seed is."""
        every = self.trained.values()
        unfinished = any(one.interrupted for one in every), any(one.out_of_time for one in every)
        return replace(self.trained[self.best], interrupted=unfinished[0], out_of_time=unfinished[1])

    def facts(self) -> dict[str, Any]:
        """For JSON: each seed's score and KL, the best seed, median, lowest and highest score."""
        scores = self.scores
        kls = {str(seed): trained.best.kl for seed, trained in self.trained.items()}
        spread = {"median": median(scores.values()), "lowest": min(scores.values()), "highest": max(scores.values())}
        return {"scores": {str(seed): score for seed, score in scores.items()}, "kls": kls, "seed": self.best, **spread}


def told_of_seeds(facts: dict[str, Any]) -> str:
    """The line that says which seed is the best, and how far the scores lie apart."""
    low, middle, high = (f"{100 * facts[name]:.2f}" for name in ("lowest", "median", "highest"))
    many = len(facts["scores"])
    return f"seed {facts['seed']} has the lowest KL of {many}: median {middle} %, {low} to {high} % on held-out images"


def train_seeds(
    distill: Distill,
    config: TrainConfig,
    count: int,
    folder: RunFolder,
    command: str,
    options: dict[str, Any],
    watch: Watch,
    resume: bool,
    overwrite: bool,
    sources: dict[str, str],
) -> Seeds:
    """Train with seeds config.seed and up, each into folder/seed-K; Ctrl-C ends with the seeds so far, the interrupted one among them.

    distill: one training with the configuration given, its progress and its checkpoints. options: of the command, which each
    seed's config.yaml repeats for that seed alone. sources: of what is trained, see finished.py. Raises InputError for a seed that
    was done with other options, or of other sources.
    """
    seeds = range(config.seed, config.seed + count)
    places = {
        seed: RunFolder(
            folder.path / f"seed-{seed}",
            resume,
            folder.log_every,
            watch.warning,
            folder.tensorboard,
            overwrite,
            folder.track,
        )
        for seed in seeds
    }
    done: dict[int, Trained] = {}
    for seed, place in places.items():
        alone = replace(
            config, seed=seed, split_seed=config.held_out_seed, preflight=config.preflight and not done, profile=""
        )
        own = {**options, "seed": seed, "split_seed": config.held_out_seed, "output": str(place.path)}
        before = finished(place.path, own, sources) if resume else None
        if before is None:
            watch.stage(f"seed {seed}")
            place.write_config(command, own)
        found = done[seed] = before.trained if before else _trained(distill, alone, watch, place, folder, sources)
        if found.stopped:
            watch.warning(f"seed {seed} stopped: {found.stopped}")
        if found.interrupted:
            watch.warning(f"interrupted at seed {seed}, {len(done)} of {count}; --resume goes on there")
            break
    made = Seeds(done)
    for name in (LOG, TABLE):
        shutil.copyfile(places[made.best].path / name, folder.path / name)
    return made


def _trained(
    distill: Distill, config: TrainConfig, watch: Watch, place: RunFolder, folder: RunFolder, sources: dict[str, str]
) -> Trained:
    def evaluation(checkpoint: Checkpoint) -> None:
        folder.begin()
        place.evaluation(checkpoint)

    with made_folder(place.path):
        found = distill(config, watch.also(place.step, evaluation), place.store)
        if found.finished:
            models.save(found.best.student, place.path / TRAINED)
            leave_facts(place.path, found, sources)
            place.finish()
    return found


def best_so_far(folder: Path) -> Path | None:
    """The folder of the best of the seeds that are done; None where there are none."""
    done = sorted(folder.glob(f"seed-*/{FACTS}"))
    kls = {path.parent: json.loads(path.read_text(encoding="utf-8"))["kl"] for path in done}
    return min(kls, key=lambda path: kls[path]) if kls else None
