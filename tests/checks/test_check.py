"""What a model claims is compared with what it holds before anything is made of it."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_distill import model as models
from onnx_distill.checks import check
from onnx_distill.errors import InputError
from onnx_distill.facts.weightless import without_weights
from onnx_distill.lookup import opset


def parse(
    body: str = "y = Add(x, w)", more: str = "", header: str = 'ir_version: 8, opset_import: ["": 17]'
) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"<{header}> g (float[n,3] x) => (float[n,3] y) <float[3] w = {{1,2,3}}{more}> {{ {body} }}"
    )


def test_a_sound_model_is_loaded_as_it_is():
    assert models.load(parse()) == parse()


# --- versions


@pytest.mark.parametrize("version, written", [(3, 3), (8, 8), (10, 10), (11, 10), (13, 10)])
def test_ir_3_to_13_are_taken_and_no_more_than_10_is_written(version, written):
    model = parse(header=f'ir_version: {version}, opset_import: ["": 17]')
    if version == 3:
        model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3]))
    assert models.load(model).ir_version == written


@pytest.mark.parametrize("version", [0, 2, 14, 2**40])
def test_other_ir_versions_are_refused(version):
    model = parse()
    model.ir_version = version
    with pytest.raises(InputError, match=f"has IR version {version}, wanted 3 to 13"):
        models.load(model)


@pytest.mark.parametrize("version", [7, 9, 13, 17, 21])
def test_opsets_from_7_on_are_taken(version):
    assert opset(models.load(parse(header=f'ir_version: 8, opset_import: ["": {version}]'))) == version


@pytest.mark.parametrize("version", [-1, 1, 6, 1000])
def test_other_opsets_are_refused(version):
    model = parse()
    model.opset_import[0].version = version
    with pytest.raises(InputError, match=f"has opset {version}, wanted 7 to .*Export it again"):
        models.load(model)


# --- tensors


def with_tensor(**fields) -> onnx.ModelProto:
    model = parse()
    model.graph.initializer[0].CopyFrom(TensorProto(name="w", **fields))
    return model


@pytest.mark.parametrize(
    "fields",
    [
        dict(data_type=1, dims=[3], raw_data=bytes(12)),
        dict(data_type=1, dims=[3], float_data=[1, 2, 3]),
        dict(data_type=1, dims=[0]),
        dict(data_type=1, dims=[], float_data=[1]),
        dict(data_type=10, dims=[3], int32_data=[1, 2, 3]),
        dict(data_type=21, dims=[3], raw_data=bytes(2)),
        dict(data_type=21, dims=[3], int32_data=[1, 2]),
        dict(data_type=14, dims=[3], float_data=[1] * 6),
        dict(data_type=8, dims=[1], string_data=[b"a"]),
    ],
    ids=["raw", "list", "empty", "scalar", "halves", "4 bits raw", "4 bits", "complex", "string"],
)
def test_whole_tensors_pass(fields):
    check.check_tensors(with_tensor(**fields), "m.onnx")


@pytest.mark.parametrize(
    "fields, why",
    [
        (dict(data_type=1, dims=[10**9, 10**9], raw_data=bytes(12)), "has 12 bytes, wanted 4000000000000000000"),
        (dict(data_type=1, dims=[10**9, 10**9], float_data=[1, 2]), "has 2 values, wanted 1000000000000000000"),
        (dict(data_type=1, dims=[10**9, 10**9]), "has 0 values, wanted 1000000000000000000"),
        (dict(data_type=1, dims=[2**62, 8]), "has 0 values, wanted"),
        (dict(data_type=1, dims=[-3], raw_data=bytes(12)), r"has the shape \[-3\]"),
        (dict(data_type=1, dims=[-3], float_data=[1]), r"has the shape \[-3\]"),
        (dict(data_type=1, dims=[3], raw_data=bytes(11)), "has 11 bytes, wanted 12.*truncated"),
        (dict(data_type=1, dims=[3], float_data=[1, 2, 3], int32_data=[1]), "has 4 values, wanted 3"),
        (dict(data_type=99, dims=[3], raw_data=bytes(12)), "is of type 99"),
        (dict(data_type=8, dims=[3], raw_data=bytes(12)), "is of type STRING"),
        (dict(data_type=1, dims=[3], data_location=1), "lies in another file"),
    ],
)
def test_tensors_that_do_not_hold_what_they_claim_are_refused(fields, why):
    with pytest.raises(InputError, match=f"not a valid ONNX model: tensor 'w' {why}"):
        models.load(with_tensor(**fields))


HUGE = TensorProto(name="huge", data_type=1, dims=[10**6, 10**6])


def in_a_subgraph(model: onnx.ModelProto) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["huge"], ["z"])], "b", [], [onnx.ValueInfoProto(name="z")], [HUGE]
    )
    model.graph.node.append(helper.make_node("If", ["c"], ["q"], then_branch=branch, else_branch=branch))


def in_an_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["q"], value=HUGE))


def in_a_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["q"], value=HUGE)
    model.functions.append(helper.make_function("mine", "f", [], ["q"], [node], [helper.make_opsetid("", 17)]))


def in_a_sparse_tensor(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(HUGE, HUGE, [10**6]))


@pytest.mark.parametrize("put", [in_a_subgraph, in_an_attribute, in_a_function, in_a_sparse_tensor])
def test_tensors_are_checked_wherever_they_are(put):
    model = parse()
    put(model)
    with pytest.raises(InputError, match="tensor 'huge' has 0 values, wanted 1000000000000"):
        models.load(model)


# --- names


@pytest.mark.parametrize(
    "body, more, why",
    [
        ("a = Add(x, y) y = Add(a, w)", "", "Add 'a' reads 'y', which is made only after it: the nodes form a circle"),
        ("y = Add(y, w)", "", "Add 'y' reads 'y', which is made only after it"),
        ("y = Add(x, nowhere)", "", "Add 'y' reads 'nowhere', which nothing makes"),
        ("a = Neg(x) a = Abs(x) y = Add(a, w)", "", "two values have the name 'a'"),
        ("w = Neg(x) y = Add(x, w)", "", "two values have the name 'w'"),
        ("y = Add(x, w)", ", float[3] w = {1,2,3}", "two values have the name 'w'"),
        ("a = Neg(x)", "", "y"),
    ],
    ids=["circle", "reads itself", "missing", "made twice", "weight and node", "two weights", "output nothing makes"],
)
def test_graphs_that_cannot_be_run_are_refused(body, more, why):
    with pytest.raises(InputError, match=f"the given ModelProto is not a valid ONNX model: .*{why}"):
        models.load(parse(body, more))


@pytest.mark.parametrize("field", ["input", "output"])
def test_an_input_or_output_listed_twice_is_refused(field):
    model = parse()
    getattr(model.graph, field).append(getattr(model.graph, field)[0])
    with pytest.raises(InputError, match="two values have the name '[xy]'"):
        models.load(model)


def test_constants_of_every_form_are_sound():
    models.load(
        parse(
            "a = Constant<value_floats = [1.0, 2.0, 3.0]>() b = Constant<value = float[3] {1,2,3}>() c = Add(a, b) y = Add(x, c)"
        )
    )


def test_names_that_are_no_text_are_one_line(tmp_path):
    whole = parse().SerializeToString().replace(b"\x01x", b"\x01\xff")
    (tmp_path / "m.onnx").write_bytes(whole)
    with pytest.raises(InputError, match="m.onnx is not a valid ONNX model: its input .*cannot be decoded"):
        models.load(tmp_path / "m.onnx")


# --- memory


def peak_bytes(path: str, limit: int) -> subprocess.CompletedProcess:
    code = f"import resource; from onnx_distill import model, errors\ntry: model.load({path!r})\nexcept errors.InputError as e: print(e)"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )


def test_absurd_claims_cost_no_memory(tmp_path):
    model = parse()
    model.graph.initializer[0].CopyFrom(TensorProto(name="w", data_type=1, dims=[10**6, 10**6], data_location=1))
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", str(4 * 10**12))):
        model.graph.initializer[0].external_data.add(key=key, value=value)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "w.bin").write_bytes(bytes(1000))
    done = peak_bytes(str(tmp_path / "m.onnx"), 4 * 2**30)
    assert done.returncode == 0 and "which has 1000. Is the file truncated?" in done.stdout, done.stderr


def test_a_loaded_model_keeps_one_copy_of_its_weights():
    model = parse()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((2000, 3), np.float32), "w"))
    assert models.load(model) == model
    assert without_weights(model).ByteSize() < 500
