"""The commands that look: each reads its files, measures, and prints what it found."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
import numpy as np
import onnx

from onnx_distill import model as models
from onnx_distill.cli.general_options import (
    config_option,
    json_option,
    latency_option,
    logits_option,
    model_argument,
    model_options,
    teacher_option,
    threads_option,
)
from onnx_distill.cli.image_options import data_options
from onnx_distill.cli.inputs import load, open_data
from onnx_distill.cli.sections import command
from onnx_distill.cli.terminal import tell, warn
from onnx_distill.compare import Layer, worst_first
from onnx_distill.compare import compare as compare_models
from onnx_distill.compare import render_layers as render_compared
from onnx_distill.data import batches
from onnx_distill.errors import InputError
from onnx_distill.facts.logits import find_logits, value_types
from onnx_distill.facts.provenance import provenance
from onnx_distill.inspection import inspect as inspect_model
from onnx_distill.inspection import render
from onnx_distill.kernels.execution import execution as look_at_execution
from onnx_distill.kernels.execution import render_execution
from onnx_distill.lookup import shape_of
from onnx_distill.quantization.layer_bits import render_layers
from onnx_distill.ready import calibrated, measure
from onnx_distill.ready.deployable import like, logits_model
from onnx_distill.ready.teacher_check import teacher_check
from onnx_distill.report import table
from onnx_distill.run.result import Row
from onnx_distill.verify import as_data, find_runtime
from onnx_distill.verify import render as render_verification


@command(short_help="What is in a model and what is in the way.")
@model_argument("model")
@logits_option
@model_options
@click.option(
    "--execution", is_flag=True, help="Also which nodes the installed onnxruntime runs in integers, and which not."
)
@click.option(
    "--layers", is_flag=True, help="Also each layer by its name, with the bits of its weights and of what it makes."
)
@json_option
@config_option
def inspect(model, logits, execution, layers, as_json, input_shape, constants):
    """Show what is in a model, where it comes from, where it would be cut, and what could not be trained.

    \b
    Example: onnx-distill inspect models/mobilenetv2-fashion.onnx
    """
    loaded = load(model, input_shape, constants) if input_shape or constants else models.load(model)
    found = inspect_model(loaded, logits)
    runs = look_at_execution(loaded) if execution else None
    if as_json:
        click.echo(json.dumps({**asdict(found), **({"execution": asdict(runs)} if runs else {})}, indent=1))
        return
    click.echo(render(found))
    if layers:
        click.echo(render_layers(found.layers))
    if runs:
        click.echo(render_execution(runs))


@command("eval", short_help="Measure a classifier, beside a teacher.")
@model_argument("model")
@model_options
@data_options
@click.option("--teacher", type=click.Path(dir_okay=False), help="A model to agree with.")
@click.option("--logits", help="Node or value of the logits, in both. Default: what feeds the final Softmax.")
@click.option("--batch-sizes", default="1,64", show_default=True, help="For latency; empty: none.")
@latency_option
@threads_option
@json_option
@config_option
def evaluate(model, teacher, logits, batch_sizes, latency, threads, as_json, input_shape, constants, **options):
    """Measure a classifier: top-1, top-5, agreement with a teacher, KL, size, latency.

    \b
    Example: onnx-distill eval student.int8.onnx --teacher teacher.onnx \\
      --data test.npz
    """
    sizes = _sizes(batch_sizes) if latency else ()
    loaded = {"teacher": load(teacher, input_shape, constants)} if teacher else {}
    loaded["model"] = like(loaded["teacher"], models.load(model)) if teacher else load(model, input_shape, constants)
    original = next(iter(loaded.values()))
    images = open_data(original, options, classes=_classes(original, logits), student=loaded["model"])
    first = next(iter(loaded))
    scores = measure.scores_of(loaded, images, threads, logits)
    answers = lambda batch: measure.logits_of(loaded[first], batch, threads, logits)  # noqa: E731
    teacher_check(scores[first], images, answers, name=first).told(lambda fine: None, warn)
    print_rows(measure.rows_of(loaded, scores, images, threads, sizes), as_json)


def _classes(model: onnx.ModelProto, logits: str | None) -> int | None:
    """How many the logits have; None where the model does not say."""
    value = value_types(model).get(find_logits(model, logits).value)
    shape = shape_of(value) if value is not None and value.type.tensor_type.HasField("shape") else []
    return shape[1] if len(shape) > 1 and isinstance(shape[1], int) else None


@command(short_help="Where quantization hurts, value by value.")
@model_argument("student")
@teacher_option
@model_options
@data_options
@click.option(
    "--samples", type=click.IntRange(1), default=256, show_default=True, help="Images to compare on, the first ones."
)
@click.option(
    "--sort", "sorted_by", type=click.Choice(["worst", "graph"]), default="worst", show_default=True, help="Of the layers."
)
@click.option("--top", type=click.IntRange(0), default=0, show_default=True, help="So many of them; 0: all.")
@threads_option
@json_option
@config_option
def compare(student, teacher, samples, sorted_by, top, threads, as_json, input_shape, constants, **options):
    """Where quantization hurts: noise, clipping and unused levels of each quantized value of a QDQ student.

    Noise is signal to quantization noise in decibels, 6 for each bit: a layer's own, which its quantizer makes of the
    teacher's values, and what has gathered on the way there. Weights (W) go by the node that reads them, activations (A) by
    the node that makes them.

    \b
    Example: onnx-distill compare run/trained.qdq.onnx --teacher teacher.onnx \\
      --data test.npz
    """
    qdq = models.load(student)
    float_model = logits_model(qdq, load(teacher, input_shape, constants))
    images = open_data(float_model, options, labelled=False, student=qdq)
    ready = calibrated.ready(float_model, images.read(np.arange(1)).shape[1:])
    few = np.arange(min(samples, len(images)))
    layers = compare_models(ready, qdq, (batch.images for batch in batches(images, 32, few)), threads)
    layers = worst_first(layers) if sorted_by == "worst" else layers
    click.echo(_as_json(layers[:top] if top else layers) if as_json else render_compared(layers, top))


def _as_json(layers: list[Layer]) -> str:
    """A layer without noise has null: JSON knows no infinity."""
    finite = lambda value: None if isinstance(value, float) and not np.isfinite(value) else value  # noqa: E731
    return json.dumps([{key: finite(value) for key, value in asdict(layer).items()} for layer in layers], indent=1)


@command(short_help="The exported student under each runtime.")
@model_argument("student")
@click.option("--teacher", type=click.Path(dir_okay=False), help="The original float model, to agree with.")
@model_options
@data_options
@click.option(
    "--runtimes",
    help="With commas: wheel (this Python's), onnxruntime, openvino (the newest; onnxruntime==1.17.3: that one), "
    "onnxruntime-web (under Node), reference (the onnx package's evaluator), onnxruntime=PYTHON.  [default: wheel,onnxruntime; "
    "openvino for a file made for it]",
)
@click.option(
    "--simulation",
    type=click.Path(dir_okay=False),
    help="The QDQ model that was trained.  [default: the student's nodes as they stand]",
)
@click.option("--samples", type=click.IntRange(0), default=0, show_default=True, help="Images, the first ones; 0: all.")
@click.option(
    "--bound",
    type=click.FloatRange(0, 1),
    help="Least top-1 agreement of any two.  [default: 0.999; 0.995 below 4 bits]",
)
@click.option("--trace", type=click.IntRange(0), default=20, show_default=True, help="Images to trace of those that differ.")
@threads_option
@json_option
@config_option
@click.pass_context
def verify(
    ctx, student, teacher, runtimes, simulation, samples, bound, trace, threads, as_json, input_shape, constants, **options
):
    """Does an exported student answer alike under every runtime, and as the student that was trained?

    Each runtime works in a process, and where need be an environment, of its own; what is missing is installed once, by pip or
    npm, into a folder of your cache. Where two part, the first value that differs is named, with its cause. Exit code 1 for
    too little agreement.

    \b
    Example: onnx-distill verify run/student.int8.onnx --teacher teacher.onnx \\
      --data test.npz --runtimes onnxruntime,openvino
    """
    original = load(teacher, input_shape, constants) if teacher else None
    shipped = like(original, models.load(student)) if original else load(student, input_shape, constants)
    named = _own_runtimes(shipped) if runtimes is None else runtimes
    found = [find_runtime(name.strip(), tell) for name in named.split(",") if name.strip()]
    if not found:
        raise InputError("--runtimes names none; wanted at least one, such as wheel.")
    images = open_data(shipped, options)
    images = images.subset(np.arange(min(samples, len(images)))) if samples else images
    verified = measure.verified(
        shipped, found, images, original, models.load(simulation) if simulation else None, bound, trace, threads, tell
    )
    click.echo(json.dumps(as_data(verified), indent=1) if as_json else render_verification(verified))
    if not verified.passed:
        ctx.exit(1)


def _own_runtimes(shipped: onnx.ModelProto) -> str:
    """Those that a file is made for, as it says itself."""
    made_for_openvino = provenance(shipped).get("target", "").startswith("openvino")
    return "openvino" if made_for_openvino else "wheel,onnxruntime"


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        sizes = (0,)
    if any(size < 1 for size in sizes):
        raise InputError(f"--batch-sizes is {text!r}; wanted whole numbers above 0 with commas between, such as 1,64.")
    return sizes


def print_rows(rows: list[Row], as_json: bool, seeds: dict | None = None, refused: str = "") -> None:
    """Of the last row: what is known of the seeds that it is the best of, and why it is refused, where it is."""
    as_data = [{"name": row.name, **asdict(row.measured)} for row in rows]
    if seeds is not None:
        as_data[-1]["seeds"] = seeds
    if refused:
        as_data[-1]["refused"] = refused
    click.echo(json.dumps(as_data, indent=1) if as_json else table(rows))
