"""The commands that make something: each reads its files, calls one stage, and prints what came out."""

from __future__ import annotations

import json

import click

from onnx_distill import model as models
from onnx_distill import pipeline
from onnx_distill.cli.completion import completion
from onnx_distill.cli.general_options import (
    config_option,
    json_option,
    logits_option,
    model_argument,
    model_options,
    output_file,
    seed_option,
    storage_option,
    teacher_option,
    threads_option,
)
from onnx_distill.cli.image_options import data_options
from onnx_distill.cli.inputs import budget_of, chosen, load, open_data
from onnx_distill.cli.looking import compare, evaluate, inspect, verify
from onnx_distill.cli.predicting import predict
from onnx_distill.cli.quantize_options import quantize_options
from onnx_distill.cli.ranking import sensitivity
from onnx_distill.cli.reporting import report as report_command
from onnx_distill.cli.sections import command
from onnx_distill.cli.terminal import tell
from onnx_distill.cli.training import run, train
from onnx_distill.config import QuantizeConfig
from onnx_distill.cut import cut as cut_model
from onnx_distill.facts.logits import find_logits
from onnx_distill.facts.provenance import provenance
from onnx_distill.mixed import bytes_of_weights
from onnx_distill.quantization.layer_bits import layer_bits, weights_summary
from onnx_distill.ready.deployable import classes_of, deployable
from onnx_distill.targets import TARGETS


@command()
@model_argument("teacher")
@logits_option
@model_options
@json_option
@output_file
@config_option
def cut(teacher, logits, as_json, output, input_shape, constants):
    """Truncate a classifier at its logits.

    \b
    Example: onnx-distill cut teacher.onnx -o logits.onnx \\
      --logits MobilenetV2/Predictions/Reshape
    """
    loaded = load(teacher, input_shape, constants)
    found = find_logits(loaded, logits)
    made = cut_model(loaded, logits)
    models.save(made, output)
    value, why = made.graph.output[0].name, f", {found.reason}" if logits is None and found.softmax is None else ""
    click.echo(json.dumps({"model": str(output), "logits": value}) if as_json else f"{output}: cut at {value}{why}")


@command(short_help="Calibrate and insert Q/DQ: the PTQ baseline.")
@model_argument("model")
@logits_option
@model_options
@data_options
@quantize_options
@seed_option
@threads_option
@json_option
@output_file
@config_option
def quantize(model, output, logits, samples, seed, threads, as_json, input_shape, constants, **options):
    """Calibrate on images and insert Q/DQ: the PTQ baseline, and what train trains.

    MODEL is a float model; it is cut at its logits if `cut` has not done so.

    \b
    Example: onnx-distill quantize logits.onnx --data train.npz \\
      --weight-bits 4 -o student.qdq.onnx

    \b
    With a ranking of the layers, which `sensitivity` makes:
      onnx-distill quantize logits.onnx --data train.npz \\
      --mixed sensitivity.json --budget-size 0.6 -o student.qdq.onnx
    """
    config = chosen(QuantizeConfig, options)
    loaded = cut_model(load(model, input_shape, constants), logits)
    budget = budget_of(options)
    labelled = budget is not None and budget.accuracy is not None
    images = open_data(loaded, options, labelled=labelled, classes=classes_of(loaded))
    made = pipeline.quantize_with_images(loaded, images, config, samples, seed, threads, budget)
    models.save(made, output)
    used = min(samples, len(images))
    widths = provenance(made).get("bits", f"W{config.weight_bits}A{config.activation_bits}")
    result = {"student": str(output), "samples": used, **provenance(made)}
    text = f"{output}: {widths}, calibrated on {used} images"
    if budget is not None:
        result["weight_bytes"] = bytes_of_weights(layer_bits(made), budget.counted)
        text += f"; {result['weight_bytes']:,} bytes of weights ({budget.counted})"
    tell(weights_summary(layer_bits(made)))
    click.echo(json.dumps(result) if as_json else text)


@command(short_help="A QDQ student in integers, the tail put back.")
@model_argument("student")
@teacher_option
@click.option(
    "--target", type=click.Choice(list(TARGETS)), help="The runtime that it is for.  [default: what it was quantized for]"
)
@storage_option
@json_option
@output_file
@config_option
def export(student, teacher, target, weight_storage, as_json, output):
    """Turn a QDQ student into integers and put the teacher's tail back.

    \b
    Example: onnx-distill export run/trained.qdq.onnx --teacher teacher.onnx \\
      -o student.int8.onnx
    """
    made = deployable(models.load(student), load(teacher, None, ()), target, weight_storage)
    models.save(made, output)
    result = {"student": str(output), "bytes": made.ByteSize(), **provenance(made)}
    click.echo(json.dumps(result) if as_json else f"{output}: {made.ByteSize():,} bytes")


ALL = (
    *(inspect, cut, quantize, train, export, evaluate, predict),
    *(run, compare, sensitivity, verify, report_command, completion),
)
