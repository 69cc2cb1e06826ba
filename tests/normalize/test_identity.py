import numpy as np
import onnx
import pytest
from equal import operators, same_outputs

from onnx_distill.normalize import normalize


def parse(body: str, outputs: str = "float[n,3] y") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g (float[n,3] x) => ({outputs}) {{ {body} }}')


@pytest.mark.parametrize(
    "body",
    ["a = Relu(x) b = Identity(a) y = Neg(b)", "a = Relu(x) b = Dropout(a) y = Neg(b)", "a = Relu(x) y = Identity(a)"],
    ids=["identity", "dropout", "before the output"],
)
def test_identities_are_removed_and_outputs_stay(body):
    model = parse(body)
    made, done = normalize(model)
    assert {"Identity", "Dropout"} & operators(model) and not {"Identity", "Dropout"} & operators(made)
    assert [rewrite.rule for rewrite in done] == ["identity"]
    same_outputs(model, made, {"x": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)})


@pytest.mark.parametrize(
    "body, outputs",
    [("y = Identity(x)", "float[n,3] y"), ("a = Relu(x) y = Identity(a)", "float[n,3] y, float[n,3] a")],
    ids=["of the input", "of another output"],
)
def test_identity_that_gives_an_output_its_name_stays(body, outputs):
    made, done = normalize(parse(body, outputs))
    assert "Identity" in operators(made) and not done


def test_dropout_whose_mask_is_read_stays():
    made, done = normalize(parse("y, m = Dropout(x)", "float[n,3] y, bool[n,3] m"))
    assert "Dropout" in operators(made) and not done
