"""Fetches a teacher that nobody here made and draws images for it; prints both paths and the options for onnx-distill.

python scripts/strangers/prepare.py orientation --to data/strangers --count 800 --seed 1
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # scripts/ in place of scripts/strangers/

from strangers import STRANGERS  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[stranger.name for stranger in STRANGERS])
    parser.add_argument("--to", type=Path, default=Path("data/strangers"), help="where teacher and images are kept")
    parser.add_argument("--count", type=int, default=800)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    stranger = next(stranger for stranger in STRANGERS if stranger.name == options.name)
    teacher, images = stranger.prepare(options.to, options.count, options.seed)
    logits = ("--logits", stranger.logits) if stranger.logits else ()
    print(teacher, "--data", images, shlex.join((*logits, *stranger.options)))


if __name__ == "__main__":
    main()
