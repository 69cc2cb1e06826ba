"""Inference sessions: an ONNX model ready to run on the CPU, quiet, with the threads the user chose."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as C

from onnx_distill.errors import InputError, first_line
from onnx_distill.quantization.unshared import with_own_weights

_ERRORS_ONLY = 3
# What the runtime raises has no common base; a C++ exception that it does not know is a RuntimeError.
FAILURES: tuple[type[Exception], ...] = (
    RuntimeError,
    *(
        getattr(C, name)
        for name in "EPFail EngineError Fail InvalidArgument InvalidGraph InvalidProtobuf NotImplemented".split()
    ),
    C.RuntimeException,
)


def open_session(
    source: onnx.ModelProto | str | os.PathLike,
    threads: int | None = None,
    optimized: bool = True,
    log_path: str | None = None,
    spinning: bool = True,
    exact: bool = True,
) -> ort.InferenceSession:
    """A CPU session of a model or file.

    threads: intra-op threads; None leaves the runtime's own choice. optimized=False runs the nodes exactly as they stand.
    spinning=False lets idle threads sleep at once: for a session that takes turns with another one in the same process.
    log_path: where to write the optimized graph, for those who want to see what was fused.
    exact: no sum of 8-bit products saturates, on any machine: what scores and compares answers. False: as users open a session,
    with the kernels that they run and, on x86-64 without VNNI, their saturation: what measures time or looks at the runtime.
    Raises InputError when the runtime cannot load the model.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
        source = with_own_weights(source) if isinstance(source, onnx.ModelProto) else source
    if threads:
        options.intra_op_num_threads = threads
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if log_path:
        options.optimized_model_filepath = log_path
    content = source.SerializeToString() if isinstance(source, onnx.ModelProto) else str(Path(source))
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a family of unrelated types; all mean: this model does not load
        where = "the model" if isinstance(source, onnx.ModelProto) else str(source)
        raise InputError(f"onnxruntime {ort.__version__} cannot load {where}: {first_line(error)}") from error


def give_back_memory() -> None:
    """Freed memory back to the system, where the C library keeps it otherwise (glibc): after a model was loaded or artifacts were
    built, that is two to four times the model's size."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def run(session: ort.InferenceSession, images: np.ndarray, outputs: list[str] | None = None) -> list[np.ndarray]:
    """The outputs (all, or those named) for one batch float32 [n, channels, height, width] fed to the first input.

    Raises InputError when the batch does not have the shape that the model wants, or the model fails on it.
    """
    check_batch(session, images)
    return compute(session, {session.get_inputs()[0].name: images}, outputs)


def compute(
    session: ort.InferenceSession, feeds: dict[str, np.ndarray], outputs: list[str] | None = None
) -> list[np.ndarray]:
    """The outputs (all, or those named). Raises InputError for a model that loads and does not run."""
    try:
        return session.run(outputs, feeds)
    except FAILURES as error:
        raise InputError(f"the model fails on a batch of images: {' '.join(str(error).split())[:500]}") from None


def check_batch(session: ort.InferenceSession, images: np.ndarray) -> None:
    """Raises InputError when the batch does not have the shape that the session's first input wants."""
    wanted = session.get_inputs()[0]
    fixed = [(have, want) for have, want in zip(images.shape, wanted.shape) if isinstance(want, int)]
    if images.ndim != len(wanted.shape) or any(have != want for have, want in fixed):
        raise InputError(
            f"a batch of shape {list(images.shape)} was given; input {wanted.name!r} wants {wanted.shape}. "
            "Check the images' size and --layout."
        )
