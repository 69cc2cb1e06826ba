"""opset.py: what is said in a newer operator set computes the same, in functions too."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import onnx_distill as od
from onnx_distill.lower.opset import REDUCTIONS, raised

X = np.random.default_rng(0).uniform(0.5, 2, (2, 3, 4, 5)).astype(np.float32)


def reducing(kind: str) -> onnx.ModelProto:
    """The reduction once in the graph, and once in a function whose axes are an argument."""
    inner = helper.make_node(kind, ["v"], ["r"], keepdims=0)
    inner.attribute.add(name="axes", ref_attr_name="over", type=onnx.AttributeProto.INTS)
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("own", "Half", ["v"], ["r"], [inner], [opset], ["over"])
    nodes = [
        helper.make_node(kind, ["x"], ["y"], axes=[1, 3]),
        helper.make_node("Half", ["x"], ["z"], domain="own", over=[2, -1]),
    ]
    values = [helper.make_tensor_value_info("y", 1, [2, 1, 4, 1]), helper.make_tensor_value_info("z", 1, [2, 3])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, list(X.shape))], values)
    return helper.make_model(graph, functions=[function], opset_imports=[opset, helper.make_opsetid("own", 1)], ir_version=8)


def answers(model: onnx.ModelProto) -> list[np.ndarray]:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": X})


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reductions_compute_the_same_in_graphs_and_in_functions(kind):
    model = reducing(kind)
    made = raised(model, 21)
    assert {entry.version for entry in made.opset_import if entry.domain == ""} == {21}
    onnx.checker.check_model(made)
    for before, after in zip(answers(model), answers(made)):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", ["ReduceMax", "ReduceMin", "ReduceL1", "ReduceSumSquare"])
def test_reductions_with_axes_as_attributes_train(kind):
    rng = np.random.default_rng(1)
    teacher = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]> net (float[n,3,6,6] x) => (float[n,3] y) {{
        c = Conv(x, w, b) f = {kind}<axes = [2, 3], keepdims = 0>(c) z = Gemm(f, g) y = Softmax<axis = 1>(z)
    }}""")
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "g": (4, 3)}
    teacher.graph.initializer.extend(
        numpy_helper.from_array(rng.normal(0, 0.3, s).astype(np.float32), n) for n, s in shapes.items()
    )
    images = od.read_images(rng.normal(0, 1, (64, 3, 6, 6)).astype(np.float32))
    student = od.quantize_model(od.cut_model(teacher), images, od.QuantizeConfig(3, 4, edge_bits=0), threads=1)
    config = od.TrainConfig(train="always", epochs=1, batch_size=16, learning_rate=0.1, threads=1)
    assert od.train_model(student, teacher, images, od.DistillConfig(), config, validation=16).images == 48
