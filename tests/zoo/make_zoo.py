"""Write the zoo: small classifiers of the well-known families, as several exporters of several years write them.

    /path/to/python-with-torch tests/zoo/make_zoo.py [names ...]      # rewrites tests/zoo/*.onnx and README.md

Needs torch and onnxscript (development extras); the tests read only what this wrote. EXPORTS is the recipe of every file.
"""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import handmade
import onnx
import torch
from nets import net

HERE = Path(__file__).resolve().parent
LARGEST_BYTES = 200_000
FOLDED = "TorchScript, constants folded"  # BatchNormalization inside the convolutions
PRESERVED = "TorchScript, training=PRESERVE"  # as it stands in the network, constants as nodes
DYNAMO = "dynamo"


@dataclass(frozen=True)
class Export:
    """A family, who exports it, the opset, and whether the batch axis is free."""

    family: str
    exporter: str
    opset: int
    free_batch: bool = True


EXPORTS = {
    f"{e.family}-{e.opset}-{e.exporter.split()[-1].split('=')[-1].lower()}": e
    for e in (
        Export("resnet", PRESERVED, 9),
        Export("resnet", DYNAMO, 18),
        Export("mobilenetv1", FOLDED, 11, free_batch=False),
        Export("mobilenetv2", PRESERVED, 12),
        Export("mobilenetv3", PRESERVED, 13),
        Export("mobilenetv3", DYNAMO, 20),
        Export("efficientnet", FOLDED, 16),
        Export("efficientnet", DYNAMO, 18),
        Export("shufflenetv2", PRESERVED, 11, free_batch=False),
        Export("shufflenetv2", FOLDED, 17),
        Export("densenet", PRESERVED, 10),
        Export("vgg", FOLDED, 8, free_batch=False),
        Export("regnet", FOLDED, 13),
        Export("regnet", PRESERVED, 17),
        Export("convnext", FOLDED, 14),
        Export("convnext", DYNAMO, 20),
        Export("vit", FOLDED, 16),
        Export("vit", DYNAMO, 18),
        Export("mlp", PRESERVED, 9),
        Export("mlp", FOLDED, 20),
        Export("audio", PRESERVED, 11),
        Export("audio", DYNAMO, 18),
    )
}


def exported(export: Export) -> bytes:
    model, images = net(export.family)
    images = images if export.free_batch else images[:1]
    file = io.BytesIO()
    names = {"input_names": ["image"], "output_names": ["probabilities"], "opset_version": export.opset}
    if export.exporter == DYNAMO:
        dynamic = ({0: torch.export.Dim("batch")},) if export.free_batch else None
        program = torch.onnx.export(model, (images,), dynamo=True, dynamic_shapes=dynamic, verbose=False, **names)
        return _small(program.model_proto)
    axes = {"image": {0: "batch"}, "probabilities": {0: "batch"}} if export.free_batch else None
    mode = torch.onnx.TrainingMode.PRESERVE if export.exporter == PRESERVED else torch.onnx.TrainingMode.EVAL
    how = {"training": mode, "do_constant_folding": export.exporter == FOLDED, "dynamic_axes": axes}
    torch.onnx.export(model, (images,), file, dynamo=False, **how, **names)
    return file.getvalue()


def _small(model: onnx.ModelProto) -> bytes:
    """Without what the dynamo exporter notes about the Python source, most of the file."""
    for part in [
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.initializer,
        *model.graph.input,
        *model.graph.output,
    ]:
        del part.metadata_props[:]
        part.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:]
    return model.SerializeToString()


def write(name: str, content: bytes) -> str:
    """The file's line of the README."""
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    if len(content) > LARGEST_BYTES:
        raise SystemExit(f"{name} has {len(content)} bytes; wanted at most {LARGEST_BYTES}. Make the net smaller.")
    (HERE / f"{name}.onnx").write_bytes(content)
    return _line(name)


def _line(name: str) -> str:
    content = (HERE / f"{name}.onnx").read_bytes()
    model = onnx.load_from_string(content)
    who = EXPORTS[name].exporter if name in EXPORTS else handmade.GRAPHS[name].__doc__.partition(":")[0]
    operators = ", ".join(sorted({node.op_type for node in model.graph.node}))
    digest = hashlib.sha256(content).hexdigest()
    return f"| {name}.onnx | {model.opset_import[0].version} | {who} | {len(content):,} | `{digest}` | {operators} |"


README = """# The zoo

Small classifiers of the well-known families, with random weights and sane statistics, as real exporters write them.
`tests/test_zoo.py` takes each of them the whole way: normalize, gradient check, quantize, ten training steps, export.

Recipe: `python tests/zoo/make_zoo.py` (torch {torch}, onnx {onnx}, onnxscript for the dynamo exporter; seeds fixed) writes the
files and this page. `nets.py` holds the networks, `handmade.py` the graphs in the manner of tf2onnx, Paddle and Caffe2. The sha256 are checked
by the test: another version of torch may write other bytes, and then the files and this page change together.

| file | opset | exporter | bytes | sha256 | operators |
|---|---|---|---|---|---|
"""


def main(wanted: list[str]) -> None:
    warnings.simplefilter("ignore")
    everything = {**EXPORTS, **handmade.GRAPHS}
    for name in wanted or everything:
        made = exported(EXPORTS[name]) if name in EXPORTS else handmade.GRAPHS[name]().SerializeToString()
        print(write(name, made)[:90])
    lines = [_line(name) for name in sorted(everything) if (HERE / f"{name}.onnx").is_file()]
    head = README.format(torch=torch.__version__, onnx=onnx.__version__)
    (HERE / "README.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
