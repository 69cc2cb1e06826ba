"""Where a student will run, and what that wants of it: one row a target, each entry with its source.

Training simulates what the row says, so that a student must be quantized for its target; what differs only in how the file is
written (biases, the type of stored weights) is done by export.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from onnx_distill.errors import InputError

QUANTIZATION_PAGE = "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"
TENSORRT_PAGE = "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html"
QNN_PAGE = "https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html"
MEASURED = "measured here"


@dataclass(frozen=True)
class Target:
    """What a runtime wants.

    symmetric: activations are int8 with zero point 0; else uint8 with a free one. weight_limit: largest |integer| of an 8-bit
    weight. clips: a Clip may stand between QuantizeLinear and DequantizeLinear, so that a range may be narrower than its type;
    else activations have 8 bits and a Relu stays in front. float_sums: a sum reads one of its layers' results as floats, not
    quantized. wide_sums: which go through a quantizer of 16 bits where they are a convolution's (kernels/wide_sums.py), and
    a quantizer of 8 bits that the student has there all the same gets a guard (kernels/sum_guards.py). bias: int32, or
    float. weights: type of the stored integers, int8 or uint8 (zero point 128). per_channel: weights have a scale for each
    output channel unless the user says otherwise. sources: field -> where it is known from.
    """

    name: str
    runs_on: str
    symmetric: bool = False
    weight_limit: int = 127
    clips: bool = True
    float_sums: bool = False
    wide_sums: bool = False
    bias: str = "int32"
    weights: str = "int8"
    per_channel: bool = True
    sources: dict[str, str] = field(default_factory=dict)


_ROWS = (
    Target(
        "ort-x86",
        "onnxruntime on x86-64 with VNNI (AVX-512 VNNI, AVX-VNNI)",
        sources={
            "symmetric": f"{MEASURED}: int8 activations stay in floats by default (docs/placement.md)",
            "weight_limit": f"{QUANTIZATION_PAGE}: no saturation with VNNI",
            "bias": f"{MEASURED}: a float bias keeps a Conv in floats",
        },
    ),
    Target(
        "ort-x86-novnni",
        "onnxruntime on x86-64 without VNNI (AVX2, AVX-512 alone)",
        weight_limit=64,
        sources={
            "weight_limit": f"{QUANTIZATION_PAGE}: VPMADDUBSW adds two products in 16 bits; 2 * 255 * 64 = 32,640 fits, "
            "which kernels/saturation.py proves for each file"
        },
    ),
    Target(
        "ort-arm",
        "onnxruntime on Arm64",
        sources={"symmetric": f"{QUANTIZATION_PAGE}: uint8 or int8 activations; uint8 has one file for x86 and Arm"},
    ),
    Target(
        "openvino",
        "OpenVINO's CPU plugin",
        float_sums=True,
        wide_sums=True,
        sources={
            "float_sums": f"{MEASURED}, 2026.4: OpenVINO fuses a sum into the convolution in front of it and does not round there",
            "wide_sums": f"{MEASURED}, 2026.4: it fuses only where a quantizer stands between the two. With one of 8 bits a quarter of the "
            "sums' integers were not what the file says; with 16 they are those of the float sum, but for ties, and OpenVINO runs the same "
            "oneDNN primitives as for quantize_static's file",
        },
    ),
    Target(
        "openvino-novnni",
        "OpenVINO's CPU plugin on x86-64 without VNNI",
        weight_limit=64,
        float_sums=True,
        wide_sums=True,
        sources={
            "weight_limit": f"{MEASURED}, 2026.4 with AVX2: sums of two products saturate as onnxruntime's do",
            "float_sums": "as for openvino",
            "wide_sums": "as for openvino",
        },
    ),
    Target(
        "tensorrt",
        "TensorRT",
        symmetric=True,
        clips=False,
        float_sums=True,
        bias="float",
        sources={
            "symmetric": f"{TENSORRT_PAGE}: symmetric quantization, centred around zero, INT8",
            "clips": f"{TENSORRT_PAGE}: INT8 is -128..127; nothing stands between Q and DQ",
            "float_sums": "https://docs.nvidia.com/deeplearning/tensorrt/tensorflow-quantization-toolkit/docs/docs/"
            "add_custom_qdq_cases.html: Q/DQ on the shortcut alone",
            "bias": f"{TENSORRT_PAGE}: INT8, INT4 and FP8 are dequantized, int32 is not",
        },
    ),
    Target(
        "qnn",
        "onnxruntime's QNN provider (Qualcomm HTP)",
        weights="uint8",
        per_channel=False,
        clips=False,
        sources={
            "weights": f"{QNN_PAGE}: its example quantizes weights to QUInt8 and activations to QUInt8 or QUInt16",
            "per_channel": f"{QNN_PAGE}: get_qnn_qdq_config takes per-tensor weights unless told otherwise",
            "clips": f"{QNN_PAGE}: QDQ node units are Q, the operator and DQ; nothing stands between",
        },
    ),
    Target(
        "generic",
        "any runtime that reads ONNX's QuantizeLinear and DequantizeLinear",
        bias="float",
        sources={
            "bias": "https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html: int32 is allowed, and not every runtime reads it"
        },
    ),
)
TARGETS = {target.name: target for target in _ROWS}
DEFAULT = "ort-x86"  # of the library; the command line's is the machine's own (kernels/machine.py)


def target_of(name: str) -> Target:
    """Raises InputError for a name that is not in the table."""
    if name not in TARGETS:
        raise InputError(f"target is {name!r}; wanted one of {', '.join(TARGETS)}.")
    return TARGETS[name]
