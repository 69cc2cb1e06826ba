"""Inner values of a model on sample images, asked for from the first nodes to the last: each node is computed about once.

What the nodes behind a point need of those before it is kept where it is small enough; the next values are computed from there. The
model may change behind that point in between.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import numpy as np
import onnx
from onnx import helper

from onnx_distill import runtime
from onnx_distill.lookup import image_input, read_by

KEPT_BYTES = 2**28  # of values between two points; where they are larger, all is computed from the point before


class InnerValues:
    """model: its nodes have names; constants may change between two calls of `at`, behind the node that was asked for last."""

    def __init__(
        self, model: onnx.ModelProto, images: Callable[[], Iterable[np.ndarray]], count: int, threads: int | None = None
    ):
        """images: gives the same batches anew each time, float32 [n, channels, height, width]; count: images in all."""
        self.model, self.count, self._threads = model, count, threads
        self._input = image_input(model).name
        self._places = {node.name: place for place, node in enumerate(model.graph.node)}
        self._varying = _read_from(model, self._input)
        self._start: Callable[[], Iterable[dict[str, np.ndarray]]] = lambda: ({self._input: batch} for batch in images())
        self._starts: Collection[str] = (self._input,)

    def has(self, value: str) -> bool:
        return value in self._varying

    def at(self, node: str, values: Iterable[str]) -> Iterator[dict[str, np.ndarray]]:
        """Batch by batch the values, which nodes may make that come no earlier than what `at` was asked for before."""
        self._advance(self._places[node])
        return self._computed(list(dict.fromkeys(values)))

    def _advance(self, place: int) -> None:
        before = {name for node in self.model.graph.node[:place] for name in node.output} | {self._input}
        needed = {name for node in self.model.graph.node[place:] for name in read_by(node)}
        needed |= {value.name for value in self.model.graph.output}
        starts = sorted(before & needed & self._varying)
        kept: list[dict[str, np.ndarray]] = []
        for batch in self._computed(starts):
            if not kept and not self._fits(list(batch.values())):
                return
            kept.append(batch)
        self._start, self._starts = lambda: iter(kept), starts

    def _fits(self, batch: list[np.ndarray]) -> bool:
        """Whether the values of all images are small enough, and none a shape or the like, by those of the first batch."""
        images = len(batch[0]) if batch and batch[0].ndim else 0
        if any(array.dtype != np.float32 or array.shape[:1] != (images,) for array in batch):
            return False
        return images > 0 and sum(array.nbytes for array in batch) / images * self.count <= KEPT_BYTES

    def _computed(self, values: list[str]) -> Iterator[dict[str, np.ndarray]]:
        ends = [name for name in values if name not in self._starts]
        session = None
        for batch in self._start():
            if session is None and ends:
                session = runtime.open_session(self._between(batch, ends), self._threads)
            feeds = {value.name: batch[value.name] for value in session.get_inputs()} if session is not None else {}
            found = dict(zip(ends, runtime.compute(session, feeds, ends))) if session is not None else {}
            yield {name: found[name] if name in found else batch[name] for name in values}

    def _between(self, starts: dict[str, np.ndarray], ends: list[str]) -> onnx.ModelProto:
        """The part of the model that computes `ends` from `starts`."""
        needed, wanted = set(ends), []
        for node in reversed(self.model.graph.node):
            if any(name in needed and name not in starts for name in node.output):
                wanted.append(node)
                needed.update(read_by(node))
        made = onnx.ModelProto(ir_version=self.model.ir_version, opset_import=self.model.opset_import)
        made.functions.extend(self.model.functions)
        made.graph.name = self.model.graph.name
        made.graph.node.extend(reversed(wanted))
        made.graph.initializer.extend(tensor for tensor in self.model.graph.initializer if tensor.name in needed)
        for name in starts:
            if name in needed:
                dims = [None] * starts[name].ndim
                made.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims))
        made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ends)
        return made


def _read_from(model: onnx.ModelProto, value: str) -> set[str]:
    """The value and all that is computed from it."""
    found = {value}
    for node in model.graph.node:
        if not found.isdisjoint(read_by(node)):
            found.update(node.output)
    return found
