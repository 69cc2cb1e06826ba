"""onnx-distill: an ONNX classifier teaches its own quantised copy.

    import onnx_distill as od

    teacher = od.load_model("teacher.onnx")
    images = od.read_images("train.npz", teacher)
    student = od.quantize_model(od.cut_model(teacher), images, od.QuantizeConfig(weight_bits=4))
    trained = od.train_model(student, teacher, images)
    exported = od.export_model(trained.best.student, teacher)

docs/api.md has a worked example. The names below are what stays as it is between versions; all else may change.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "DistillConfig",
    "InputError",
    "QuantizeConfig",
    "TrainConfig",
    "__version__",
    "cut_model",
    "evaluate_models",
    "export_model",
    "inspect_model",
    "load_model",
    "quantize_model",
    "read_images",
    "run_pipeline",
    "train_model",
]
_HOMES = {"InputError": "errors", **dict.fromkeys(("QuantizeConfig", "DistillConfig", "TrainConfig"), "config")}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: the runtimes behind them take a second."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'api')}"), name)


def __dir__() -> list:
    return sorted(__all__)


if TYPE_CHECKING:
    from onnx_distill.api import (
        cut_model,
        evaluate_models,
        export_model,
        inspect_model,
        load_model,
        quantize_model,
        read_images,
        run_pipeline,
        train_model,
    )
    from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
    from onnx_distill.errors import InputError
