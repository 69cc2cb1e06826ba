"""cut.py: what is kept is kept bit for bit, and what was cut off can be put back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from onnx_distill import lookup
from onnx_distill import model as models
from onnx_distill.cut import cut, put_back_tail
from onnx_distill.errors import InputError
from onnx_distill.facts.logits import MARK
from onnx_distill.runtime import open_session

LOGITS, SOFTMAX = "MobilenetV2/Predictions/Reshape", "MobilenetV2/Predictions/Softmax"


def make_net(
    body: str, outputs: str, inputs: str = "float[N, 1, 4, 4] image", opset: int = 13, extra: str = ""
) -> onnx.ModelProto:
    """A model of the given nodes with a few initializers at hand; the unused ones are there to be dropped."""
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}, "local" : 1], producer_name: "test">
        net ({inputs}) => ({outputs})
        <int64[2] flat = {{-1, 3}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, float two = {{2}},
         float[3] bias = {{0.5, 0, -1}}> {{
            {body}
        }} {extra}"""
    )
    rng = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal((3, 1, 4, 4)).astype(np.float32), "w"))
    model.metadata_props.add(key="classes", value="three")
    return model


CONV = '[Conv] features = Conv(image, w) [Act] act = Clip(features, , two) ["MobilenetV2/Predictions/Reshape"] '
BODY = CONV + f'"{LOGITS}" = Reshape(act, flat) '
TEACHERS = {
    "softmax": make_net(BODY + f'["{SOFTMAX}"] "{SOFTMAX}" = Softmax("{LOGITS}")', f'float[N, 3] "{SOFTMAX}"'),
    "log softmax, argmax": make_net(
        BODY + f'p = LogSoftmax("{LOGITS}") best = ArgMax<axis = 1, keepdims = 0>(p)', "int64[N] best, float[N, 3] p"
    ),
    "logits an output too": make_net(BODY + f'p = Softmax("{LOGITS}")', f'float[N, 3] p, float[N, 3] "{LOGITS}"'),
    "top 1": make_net(
        BODY + f'p = Softmax("{LOGITS}") q = Unsqueeze(p, zero) s = Squeeze(q, zero) v, i = TopK(s, one)',
        "float[N, 1] v, int64[N, 1] i",
    ),
    "shared initializer": make_net(
        BODY + f'p = Softmax("{LOGITS}") y = Reshape(p, flat) c = Clip(features, , two) ', "float[N, 3] y"
    ),
    "side branch": make_net(
        BODY + f'p = Softmax("{LOGITS}") side = Relu(features) top = Mul(side, two)', "float[N, 3] p, float[N, 3, 1, 1] top"
    ),
    "features an output too": make_net(BODY + f'p = Softmax("{LOGITS}")', "float[N, 3, 1, 1] features, float[N, 3] p"),
    "branches in the tail": make_net(
        BODY + f'p = Softmax("{LOGITS}") b = Add(p, bias) big = ReduceSum<keepdims = 0>(p) test = Greater(big, two) '
        "y = If(test) <then_branch = g1 () => (float[N, 3] t) { t = Mul(b, bias) }, "
        "else_branch = g2 () => (float[N, 3] e) { e = Sub(p, two) }>",
        "float[N, 3] y, float[N, 3] p",
    ),
    "functions on both sides": make_net(
        f'f = Conv(image, w) h = local.half(f) "{LOGITS}" = Reshape(h, flat) p = Softmax("{LOGITS}") y = local.twice(p)',
        "float[N, 3] y, float[N, 3] p",
        extra='<domain: "local", opset_import: ["" : 13]> half (a) => (b) { b = Add(a, a) }'
        '<domain: "local", opset_import: ["" : 13]> twice (a) => (b) { b = Mul(a, a) }',
    ),
}
each_teacher = pytest.mark.parametrize("name", TEACHERS)


def logits_of(name: str) -> str | None:
    return LOGITS if name in ("branches in the tail", "functions on both sides") else None


def run(model: onnx.ModelProto, outputs: list[str] | None = None) -> list[np.ndarray]:
    images = np.random.default_rng(1).standard_normal((5, 1, 4, 4)).astype(np.float32)
    return open_session(model, threads=1, optimized=False).run(outputs, {"image": images})


def exposing(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """The whole model with one more output."""
    shown = models.load(model)
    if value not in [output.name for output in shown.graph.output]:
        shown.graph.output.append(helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    return shown


@each_teacher
def test_cut_keeps_logits_bit_exact(name):
    teacher = TEACHERS[name]
    (wanted,), (got,) = run(exposing(teacher, LOGITS), [LOGITS]), run(cut(teacher, logits_of(name)))
    assert got.tobytes() == wanted.tobytes() and got.shape == (5, 3)


@each_teacher
def test_cut_twice_is_cut_once(name):
    once = cut(TEACHERS[name], logits_of(name))
    assert cut(once).SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)
    assert cut(once, LOGITS).SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


@each_teacher
def test_put_back_tail_undoes_the_cut_bit_exact(name):
    teacher = TEACHERS[name]
    whole = models.load(put_back_tail(cut(teacher, logits_of(name)), teacher))
    assert [a.tobytes() for a in run(whole)] == [a.tobytes() for a in run(teacher)]
    assert list(whole.graph.output) == list(teacher.graph.output)
    assert list(whole.graph.input) == list(teacher.graph.input)
    assert {node.name for node in whole.graph.node} <= {node.name for node in teacher.graph.node}


@each_teacher
def test_cut_does_not_edit_its_argument(name):
    before = models.load(TEACHERS[name])
    student = cut(TEACHERS[name], logits_of(name))
    assert TEACHERS[name] == before
    put_back_tail(student, TEACHERS[name])
    assert TEACHERS[name] == before and student == cut(TEACHERS[name], logits_of(name))


@each_teacher
def test_cut_model_passes_the_full_check(name):
    onnx.checker.check_model(cut(TEACHERS[name], logits_of(name)), full_check=True)


def test_cut_output_has_a_name_a_type_and_a_shape():
    (output,) = cut(TEACHERS["softmax"]).graph.output
    assert (output.name, output.type.tensor_type.elem_type) == (LOGITS, onnx.TensorProto.FLOAT)
    assert lookup.shape_of(output) == ["?", 3]


def test_cut_keeps_names_metadata_and_opset_and_drops_the_unused():
    teacher = TEACHERS["softmax"]
    student = cut(teacher)
    assert [node.name for node in student.graph.node] == ["Conv", "Act", LOGITS]
    assert sorted(lookup.initializers(student)) == ["flat", "two", "w"]
    assert {entry.key: entry.value for entry in student.metadata_props} == {"classes": "three", MARK: LOGITS}
    assert (student.opset_import, student.ir_version, student.producer_name) == (teacher.opset_import, 8, "test")


def test_cut_keeps_the_functions_in_use():
    student = cut(TEACHERS["functions on both sides"], LOGITS)
    assert [function.name for function in student.functions] == ["half"]


def test_cut_at_a_named_node_goes_before_the_softmax_found():
    model = make_net(BODY + f'more = Add("{LOGITS}", bias) p = Softmax(more)', "float[N, 3] p")
    assert [value.name for value in cut(model).graph.output] == ["more"]
    assert [value.name for value in cut(model, LOGITS).graph.output] == [LOGITS]
    assert [value.name for value in cut(cut(model), LOGITS).graph.output] == [LOGITS]


def test_cut_drops_inputs_that_only_the_tail_reads():
    model = make_net(
        BODY + f'p = Softmax("{LOGITS}") y = Mul(p, weight)',
        "float[N, 3] y, float[N, 3] p",
        "float[N, 1, 4, 4] image, float[3] weight",
    )
    student = cut(model)
    assert [value.name for value in student.graph.input] == ["image"]
    assert list(put_back_tail(student, model).graph.input) == list(model.graph.input)


def test_initializers_listed_as_inputs_survive_the_round_trip():
    model = models.load(TEACHERS["softmax"])
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    student = cut(model)
    assert [value.name for value in student.graph.input] == ["image", "flat", "two", "w"]
    assert run(models.load(put_back_tail(student, model)))[0].tobytes() == run(model)[0].tobytes()


def test_cut_works_on_external_data(tmp_path):
    teacher = models.load(TEACHERS["softmax"])
    onnx.save_model(teacher, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0)
    assert run(cut(models.load(tmp_path / "m.onnx")))[0].tobytes() == run(cut(TEACHERS["softmax"]))[0].tobytes()


def test_several_images_are_refused():
    model = make_net(
        f'sum = Add(image, other) f = Conv(sum, w) "{LOGITS}" = Reshape(f, flat) y = Softmax("{LOGITS}")',
        "float[N, 3] y",
        "float[N, 1, 4, 4] image, float[N, 1, 4, 4] other",
    )
    with pytest.raises(InputError, match="2 inputs: besides the images, 'image', it reads 'other' .*--constant other=VALUE"):
        cut(model)


def test_logits_that_depend_on_no_input_are_refused():
    model = make_net(
        "c = Unsqueeze(bias, zero) p = Softmax(c) y = Mul(p, image)", "float[N, 1, 4, 3] y", "float[N, 1, 4, 3] image"
    )
    with pytest.raises(InputError, match=r"0 inputs \(none\)"):
        cut(model, "c")


def test_quantized_model_is_refused():
    model = make_net(
        BODY + f'[Q] q = QuantizeLinear("{LOGITS}", two) d = DequantizeLinear(q, two) p = Softmax(d)', "float[N, 3] p"
    )
    with pytest.raises(InputError, match="already quantized: node 'Q' is QuantizeLinear; give the float model"):
        cut(model)


@pytest.mark.parametrize(
    "name, found",
    [("act", r"FLOAT of shape \[N, 3, 1, 1\]"), ("size", r"INT64 of shape \[4\]"), ("i", r"INT64 of shape \[N, 1\]")],
)
def test_logits_that_are_not_float_of_rank_2_are_refused(name, found):
    model = make_net(
        BODY + f'size = Shape(act) p = Softmax("{LOGITS}") i = ArgMax<axis = 1>(p)',
        "float[N, 3] p, int64[4] size, int64[N, 1] i",
    )
    with pytest.raises(InputError, match=f"logits '{name}' are {found}; wanted float .batch, classes.*--logits NAME"):
        cut(model, name)


def test_logits_of_unknown_shape_are_refused():
    model = make_net("h = local.mystery(image) p = Softmax(h)", "float[N, 3] p")
    with pytest.raises(InputError, match="the shape of 'h' cannot be inferred; wanted .batch, classes.*--logits NAME"):
        cut(model)


def test_tail_follows_what_the_student_computes():
    teacher = TEACHERS["logits an output too"]
    student = cut(teacher)
    student.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.ones((3, 1, 4, 4), np.float32), "w"))
    (scores,), (probabilities, shown) = run(student), run(put_back_tail(student, teacher))
    exps = np.exp(scores - scores.max(1, keepdims=True))
    assert shown.tobytes() == scores.tobytes()
    np.testing.assert_allclose(probabilities, exps / exps.sum(1, keepdims=True), rtol=1e-6)  # a few float32 roundings


def test_names_of_the_tail_that_the_student_took_are_renamed():
    teacher = make_net(BODY + f'p = Softmax("{LOGITS}") [last] b = Add(p, bias) y = Mul(b, two)', "float[N, 3] y")
    student = cut(teacher, LOGITS)
    student.graph.node[0].output[0] = student.graph.node[1].input[0] = "p"
    student.graph.node[0].name = "last"
    student.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "bias"))  # not the teacher's values
    whole = models.load(put_back_tail(student, teacher))
    assert run(whole)[0].tobytes() == run(teacher)[0].tobytes()
    assert [list(node.output) for node in whole.graph.node[-3:]] == [["tail/p"], ["b"], ["y"]]
    assert [node.name for node in whole.graph.node].count("last") == 1


def test_renaming_reaches_into_branches():
    teacher = TEACHERS["branches in the tail"]
    student = cut(teacher, LOGITS)
    student.graph.node[0].output[0] = student.graph.node[1].input[0] = "b"
    assert [a.tobytes() for a in run(models.load(put_back_tail(student, teacher)))] == [a.tobytes() for a in run(teacher)]


def test_equal_initializers_are_shared():
    whole = put_back_tail(cut(TEACHERS["shared initializer"]), TEACHERS["shared initializer"])
    assert sorted(tensor.name for tensor in whole.graph.initializer) == ["flat", "two", "w"]


def test_student_value_named_like_an_output_of_the_teacher_is_refused():
    teacher = TEACHERS["softmax"]
    student = cut(teacher)
    student.graph.node[0].output[0] = student.graph.node[1].input[0] = SOFTMAX
    with pytest.raises(InputError, match=f"its own value '{SOFTMAX}', the name of an output of the teacher"):
        put_back_tail(student, teacher)


def test_student_with_a_later_opset_gets_the_tail_in_that_opset():
    body = BODY + f'p = Softmax("{LOGITS}") u = Unsqueeze<axes = [0]>(p) y = Squeeze<axes = [0]>(u)'
    teacher, later = make_net(body, "float[N, 3] y", opset=12), TEACHERS["softmax"]
    whole = models.load(put_back_tail(cut(later), teacher))
    assert lookup.opset(whole) == 13
    np.testing.assert_array_equal(run(whole)[0], run(teacher)[0])


def test_student_without_a_value_that_an_output_needs_is_refused():
    teacher = TEACHERS["side branch"]
    student = cut(teacher)
    student.graph.node[0].output[0] = student.graph.node[1].input[0] = "renamed"
    with pytest.raises(InputError, match="an output of the teacher needs 'features', from before the logits"):
        put_back_tail(student, teacher)


def test_student_that_is_not_cut_at_the_logits_is_refused():
    teacher = TEACHERS["softmax"]
    with pytest.raises(InputError, match="the student's outputs are .*'act'.*; wanted the teacher's logits, "):
        put_back_tail(exposing(cut(teacher), "act"), teacher)
    with pytest.raises(InputError, match="the student's outputs are .*; wanted the teacher's logits, 'act', alone"):
        put_back_tail(cut(teacher), teacher, "act")


def test_student_with_another_input_name_is_refused():
    teacher = TEACHERS["softmax"]
    student = cut(teacher)
    student.graph.input[0].name = student.graph.node[0].input[0] = "pixels"
    with pytest.raises(InputError, match="the student reads 'pixels', the teacher 'image'; wanted the same input name"):
        put_back_tail(student, teacher)


def test_whole_model_is_not_marked_as_cut():
    whole = put_back_tail(cut(TEACHERS["softmax"]), TEACHERS["softmax"])
    assert [entry.key for entry in whole.metadata_props] == ["classes"]
