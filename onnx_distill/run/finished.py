"""What a training that is over leaves beside its student, trained.json, by which a run that is continued knows that it is over.

It is written last, and taken away when another training begins in the folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnx_distill.errors import InputError
from onnx_distill.files.replacing import replacing
from onnx_distill.files.settings import read_settings
from onnx_distill.run.folder import CONFIG, FACTS, TRAINED
from onnx_distill.training.trained import Checkpoint, Trained

# Options that may be others when a run is continued: none of them changes what a training ends in.
FREE = frozenset(
    "output report log_every tensorboard track max_drop workers cache latency preflight profile max_minutes save_every quiet verbose".split()
)


@dataclass(frozen=True)
class Finished:
    """A training that is over, and what is known of the seeds that it is the best of (None: it had one)."""

    trained: Trained
    seeds: dict[str, Any] | None = None


def leave_facts(folder: Path, trained: Trained, sources: dict[str, str], seeds: dict[str, Any] | None = None) -> None:
    """The student is in the folder already; this says that nothing is left to train. sources: option -> fingerprint of what it names."""
    facts = {name: getattr(trained, name) for name in ("scores", "images", "step_seconds", "stopped", "kept")}
    best = {name: getattr(trained.best, name) for name in ("score", "epoch", "kl")}
    best["held_out"] = trained.best.images
    with replacing(folder / FACTS) as temporary:
        temporary.write_text(json.dumps({**facts, **best, "sources": sources, **({"seeds": seeds} if seeds else {})}))


def finished(folder: Path, options: dict[str, Any], sources: dict[str, str]) -> Finished | None:
    """What a training that is over came to; None where there is none, or it is not. options: of the command, as config.yaml has them.

    sources: as in leave_facts. Raises InputError for a training with other options, FREE ones aside, or of what has changed since,
    and for files that are not what this wrote.
    """
    if not all((folder / name).is_file() for name in (FACTS, TRAINED, CONFIG)):
        return None
    before = read_settings(folder / CONFIG)
    if before.get("seeds") != options.get("seeds"):  # what is asked for now is more, or less
        return None
    _check_options(folder, before, options)
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        best = Checkpoint(onnx.load(str(folder / TRAINED)), facts["score"], facts["epoch"], facts["kl"], facts["held_out"])
        scores = tuple((epoch, score) for epoch, score in facts["scores"])
        trained = Trained(best, scores, facts["images"], facts["step_seconds"], False, facts["stopped"], kept=facts["kept"])
        changed = sorted(name for name in sources if facts["sources"].get(name) != sources[name])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / FACTS} is damaged; remove it to train again, or choose another folder.") from None
    if changed:
        raise InputError(
            f"{folder} was trained with another --{changed[0]}: what it names has changed since. Choose another folder, or leave out --resume."
        )
    return Finished(trained, facts.get("seeds"))


def _check_options(folder: Path, before: dict[str, Any], options: dict[str, Any]) -> None:
    names = sorted(name for name in {*before, *options} - FREE if before.get(name) != options.get(name))
    if names:
        was = ", ".join(f"{name} was {before.get(name)}, is {options.get(name)}" for name in names[:3])
        raise InputError(
            f"{folder} was trained with other options ({was}); repeat the same command, or choose another folder."
        )
