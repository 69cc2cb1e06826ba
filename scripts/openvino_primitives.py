"""Does OpenVINO run the same of two files? What it asks oneDNN for, implementation, types, layouts, sizes and kinds of post-operations.

    python benchmarks/latency.py --models build/latency --make-only     # makes such files
    python scripts/openvino_primitives.py build/latency/ResNet-50/static-w8a8-per-channel-minmax.onnx build/latency/ResNet-50/openvino-novnni.onnx --batch 64

Constants of post-operations are left out, and reorders. Prints how many different primitives there are and what one file alone has;
exit code 1 where that is any. They are asked for when a model is compiled (ONEDNN_VERBOSE=2), so nothing is run.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import subprocess
import sys
from pathlib import Path

from onnx_distill.verify import find_runtime

COMPILE = """
import sys
import openvino
core = openvino.Core()
model = core.read_model(sys.argv[1])
model.reshape([int(sys.argv[2]), *(size.get_length() for size in list(model.inputs[0].partial_shape)[1:])])
core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
"""
CONSTANTS = re.compile(r"(eltwise_\w+)(:-?[0-9.e+-]+)+(?=[+ ,])")


def primitives(path: str | Path, batch: int = 1) -> collections.Counter[str]:
    """Primitive as oneDNN tells of it -> how often it was made new; one that is asked for again comes from a cache, untold."""
    command = [find_runtime("openvino").command[0], "-c", COMPILE, str(path), str(batch)]
    environment = {**os.environ, "ONEDNN_VERBOSE": "2"}
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()
    made = [line.split(",", 4)[4].rsplit(",", 1)[0] for line in told if ",create:" in line]
    return collections.Counter(CONSTANTS.sub(r"\1", line) for line in made if not line.startswith("cpu,reorder"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs=2, metavar="FILE")
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    found = [primitives(path, args.batch) for path in args.files]
    alone = [ours - theirs for ours, theirs in (found, found[::-1])]
    for path, made, own in zip(args.files, found, alone):
        print(
            f"{path}, batch {args.batch}: {len(made)} different primitives, {sum(own.values())} that the other file has not"
        )
        print(*(f"  {line}" for line in own), sep="\n", end="\n" if own else "")
    return 1 if any(alone) else 0


if __name__ == "__main__":
    sys.exit(main())
