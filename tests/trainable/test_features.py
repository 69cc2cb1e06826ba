"""Which inner values are paired: by the rule, by name, and what is refused."""

from __future__ import annotations

import onnx
import pytest

from onnx_distill.errors import InputError
from onnx_distill.trainable import features
from onnx_distill.trainable.features import Feature

A1 = Feature("a1", "a1/dequantized", (4, 4, 4))
D = Feature("d", "d/dequantized", (4, 4, 4))


def test_auto_takes_the_last_value_of_each_resolution_before_the_last_layer(teacher, w3a3_student):
    found = features.choose(teacher, w3a3_student, ("auto",))
    assert [feature.size for feature in found] == [(64, 28, 28), (128, 14, 14), (256, 7, 7), (384, 4, 4), (384, 1, 1)]
    assert [feature.teacher.split("/", 1)[1] for feature in found] == [
        "expanded_conv_1/expand/Relu6",
        "expanded_conv_3/expand/Relu6",
        "expanded_conv_6/expand/Relu6",
        "Conv_1/Relu6",
        "Logits/AvgPool",
    ]


def test_auto_leaves_out_the_logits_and_what_is_merely_rearranged(tiny_float, tiny_student):
    assert features.choose(tiny_float, tiny_student(), ("auto",)) == (D,)
    assert features.choose(tiny_float, tiny_student(), ("f",)) == (Feature("f", "f/dequantized", (64,)),)


def test_name_stands_for_the_quantized_form_of_the_value_in_the_student(tiny_float, tiny_student):
    assert features.choose(tiny_float, tiny_student(), ("a1",)) == (A1,)


def test_name_of_a_node_stands_for_its_output(tiny_float, tiny_student):
    assert features.choose(tiny_float, tiny_student(), ("relu",)) == (A1,)


def test_pair_takes_the_student_s_value_as_it_is_named(tiny_float, tiny_student):
    assert features.choose(tiny_float, tiny_student(), ("a1=c2/dequantized",)) == (
        Feature("a1", "c2/dequantized", (4, 4, 4)),
    )


def test_each_pair_counts_once(tiny_float, tiny_student):
    assert features.choose(tiny_float, tiny_student(), ("d", "auto", "d", "a1")) == (D, A1)


def test_names_that_the_teacher_does_not_have_are_refused_without_a_student(tiny_float):
    features.check_names(tiny_float, ("auto", "a1", "relu", "d=whatever the student has"))
    with pytest.raises(InputError, match="no value or node 'a2' for --features; closest: .*'a1'"):
        features.check_names(tiny_float, ("auto", "a2"))


def test_none_are_wanted_by_default(tiny_float, tiny_student):
    assert features.choose(tiny_float, tiny_student(), ()) == ()


@pytest.mark.parametrize(
    "wanted, words",
    [
        ("a2", r"the teacher has no value or node 'a2' for --features; closest: .*'a1'"),
        ("image", "no value or node 'image'"),
        ("a1=a2", r"the student has no value 'a2'; wanted --features TEACHER=STUDENT"),
        ("a1=f/dequantized", "'a1' of the teacher is 4x4x4 an image, 'f/dequantized' of the student 64; wanted the same"),
    ],
)
def test_what_cannot_be_paired_is_refused_by_name(wanted, words, tiny_float, tiny_student):
    with pytest.raises(InputError, match=words):
        features.choose(tiny_float, tiny_student(), (wanted,))


def test_value_that_the_student_lost_wants_a_partner(tiny_float, tiny_student):
    renamed = onnx.ModelProto()
    renamed.CopyFrom(tiny_float)
    for node in renamed.graph.node:
        node.input[:] = ["other" if name == "a1" else name for name in node.input]
        node.output[:] = ["other" if name == "a1" else name for name in node.output]
    with pytest.raises(
        InputError, match="the student has nothing like the teacher's 'other'; wanted --features TEACHER=STUD"
    ):
        features.choose(renamed, tiny_student(), ("other",))


def test_auto_without_a_common_value_is_refused(tiny_float, tiny_student):
    renamed = onnx.ModelProto()
    renamed.CopyFrom(tiny_float)
    for node in renamed.graph.node[:-1]:
        node.output[0] = f"their_{node.output[0]}"
    for node in renamed.graph.node:
        node.input[0] = node.input[0] if node.input[0] == "image" else f"their_{node.input[0]}"
    renamed.graph.node[3].input[1] = "their_c2"
    with pytest.raises(InputError, match="no inner value of the teacher is found again in the student; name pairs"):
        features.choose(renamed, tiny_student(), ("auto",))


def test_size_that_is_not_fixed_is_refused(tiny_float, tiny_student):
    free = onnx.ModelProto()
    free.CopyFrom(tiny_float)
    free.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(InputError, match=r"the size of the teacher's 'a1' is not known; wanted \[batch, ...\]"):
        features.choose(free, tiny_student(), ("a1",))
