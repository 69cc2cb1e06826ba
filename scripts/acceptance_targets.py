"""What --target gives: no sum that can saturate, no zero point but 0, the types that QNN wants, and the accuracy that it costs.

    python scripts/acceptance_targets.py           # `make accept-deploy`; makes the students where need be (deploy_students.py)

Top-1 on the 10,000 test images of Fashion-MNIST. `exact` is the student as simulated, `stock` what this machine's onnxruntime and
OpenVINO, as their users open them, make of the exported file: where sums saturate here, the full-range student shows what is lost.
Exit code 1 where a proof fails or more than 0.2 points are lost.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import onnx
from deploy_students import EXACT_ON, TEACHER, arguments, data, student

from onnx_distill import model, qdq
from onnx_distill.data import Images, Preprocess, open_images
from onnx_distill.evaluate import top_k, with_output
from onnx_distill.kernels import machine
from onnx_distill.kernels.saturation import saturating
from onnx_distill.lookup import array, initializers
from onnx_distill.ready.measure import logits_of
from onnx_distill.verify import find_runtime
from onnx_distill.verify.agree import logits_value, simulate
from onnx_distill.verify.environments import answers

MOST_LOST = 0.2  # points of top-1, against the student for onnxruntime with VNNI
OLD = "onnxruntime==1.17.3"  # it reads no opset 21, which quantizers of 16 bits want (students for OpenVINO)
STOCK = ("onnxruntime", OLD, "openvino")
FULL_RANGE = "ort-x86"


def top1(shipped: onnx.ModelProto, images: Images, runtime: str | None, threads: int) -> float:
    """In %, of an exported student under a stock runtime, or exactly where that is None."""
    value, pixels = logits_value(shipped), images.read(np.arange(len(images)))
    made = with_output(shipped, value)
    found = (
        simulate(made, pixels, threads) if runtime is None else answers(find_runtime(runtime), made, pixels, threads).outputs
    )
    return 100 * top_k(found[value], images.labels, 1)


def saturation(images: Images, exported: dict[str, onnx.ModelProto], threads: int) -> bool:
    print("\n## Weights that saturate nowhere\n")
    print(f"Two products of 8 bits added in 16 saturate on this machine: {'yes' if machine.sums_saturate() else 'no'}.\n")
    versions = [f"stock {name}" for name in STOCK]
    print(
        f"| student W8A8 | layers that can saturate | largest sum | exact | {' | '.join(versions)} |\n|---|---|---|---|{'---|' * len(STOCK)}"
    )
    passed, best = True, {}
    for name, shipped in exported.items():
        found = saturating(shipped)
        runtimes = [one for one in (None, *STOCK) if one != OLD or not qdq.wide_pairs(shipped)]
        scores = {one: top1(shipped, images, one, threads) for one in runtimes}
        best[name] = scores[None]
        largest = max((one.largest for one in found), default=0)
        cells = [f"{scores[one]:.2f}" if one in scores else "-" for one in (None, *STOCK)]
        print(f"| {name} | {len(found)} | {largest or 'at most 32,640'} | {' | '.join(cells)} |", flush=True)
        if name in EXACT_ON:
            passed &= not found and best[FULL_RANGE] - scores[None] <= MOST_LOST
    return passed


def forms(images: Images, exported: dict[str, onnx.ModelProto], threads: int) -> bool:
    print("\n## Zero points and types\n")
    print(
        "| student W8A8 | activations | weights | zero points | weight scales | exact | points lost |\n|---|---|---|---|---|---|---|"
    )
    passed, full = True, None
    for name, shipped in exported.items():
        constants = initializers(shipped)
        kinds: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
        points, scales = set(), set()
        for q in qdq.find(shipped):
            kinds[q.stored].update([q.integers.dtype])
            points.update(np.unique(array(constants[q.zero_point])).tolist() if q.zero_point else [0])
            scales.update(["per channel" if q.axis is not None else "per tensor"] if q.stored else [])
        score = top1(shipped, images, None, threads)
        full = score if full is None else full
        shown = sorted(points) if len(points) < 4 else f"{len(points)} of them"
        texts = [" + ".join(f"{count} {kind}" for kind, count in kinds[stored].items()) for stored in (False, True)]
        print(
            f"| {name} | {' | '.join(texts)} | {shown} | {', '.join(sorted(scales))} | {score:.2f} | {full - score:.2f} |",
            flush=True,
        )
        if name == "tensorrt":
            passed &= points == {0} and full - score <= MOST_LOST
        if name == "qnn":
            passed &= {*kinds[True], *kinds[False]} == {"uint8"}
    return passed


def main() -> int:
    args = arguments(__doc__.splitlines()[0]).parse_args()
    teacher = model.load(TEACHER)
    images = open_images(data(args, "t10k"), preprocess=Preprocess.of(teacher))
    exported: dict[str, onnx.ModelProto] = {}
    for target in ("ort-x86", "ort-x86-novnni", "openvino-novnni", "tensorrt", "qnn"):
        exported[target] = model.load(student("W8A8", target, args)[1])
    parts = {"saturation": (FULL_RANGE, *EXACT_ON), "forms": (FULL_RANGE, "tensorrt", "qnn")}
    chosen = {part: {name: exported[name] for name in names} for part, names in parts.items()}
    float_top1 = 100 * top_k(logits_of(teacher, images, args.threads), images.labels, 1)
    print(f"float: {float_top1:.2f}")
    passed = [saturation(images, chosen["saturation"], args.threads), forms(images, chosen["forms"], args.threads)]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
