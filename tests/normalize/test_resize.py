"""Resize to sizes goes by scales, with the same pixels, where and only where that is the same."""

import numpy as np
import onnx
import pytest
from equal import outputs, same_outputs
from onnx import numpy_helper

from onnx_distill.errors import InputError
from onnx_distill.normalize import normalize
from onnx_distill.normalize.batch import require_free

MODES = {
    "nearest": 'mode = "nearest"',
    "asymmetric": 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"',
    "linear": 'mode = "linear"',
    "corners": 'mode = "linear", coordinate_transformation_mode = "align_corners"',
    "cubic": 'mode = "cubic"',
}


def computed(mode: str, height: int, width: int) -> onnx.ModelProto:
    """Batch and channels from the image's shape, height and width constants, as torch's interpolate is exported."""
    body = f"s = Shape(x) n = Slice(s, zero, two) c = Concat<axis = 0>(n, size) y = Resize<{mode}>(x, , , c)"
    return parse(body, "float[n,2,7,5] x", size=np.array([height, width]))


def parse(body: str, image: str, **values) -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({image}) => (float[a,b,c,d] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, content in {"zero": np.array([0]), "two": np.array([2]), **values}.items():
        model.graph.initializer.append(numpy_helper.from_array(content, name))
    return model


IMAGES = {"x": np.random.default_rng(0).standard_normal((3, 2, 7, 5)).astype(np.float32)}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("height, width", [(14, 10), (20, 13), (3, 4), (7, 9), (97, 101)])
def test_computed_sizes_become_scales(mode, height, width):
    model = computed(mode, height, width)
    made, _ = normalize(model)
    (resize,) = made.graph.node
    assert resize.input[2] and len(resize.input) == 3
    same_outputs(model, made, IMAGES)


def test_every_size_is_that_which_was_asked_for():
    """float32 scale * size is rounded down by the runtime: where that loses a pixel, the node stays as it is."""
    for height in range(1, 60):
        model = computed(MODES["nearest"], height, 5)
        assert outputs(normalize(model)[0], IMAGES)[0].shape == (3, 2, height, 5)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("height, width", [(14, 10), (31, 10), (62, 5)])
def test_sizes_with_a_fixed_batch_take_any(mode, height, width):
    """Of 7 rows 31 are made by no float32 scale that is 31 / 7 rounded: by the next one."""
    model = parse(f"y = Resize<{mode}>(x, , , size)", "float[1,2,7,5] x", size=np.array([1, 2, height, width]))
    made, done = normalize(model)
    assert "batch" in {rewrite.rule for rewrite in done}
    alone = [outputs(model, {"x": IMAGES["x"][i : i + 1]})[0] for i in range(3)]
    np.testing.assert_allclose(outputs(made, IMAGES)[0], np.concatenate(alone), rtol=1e-6, atol=1e-5)


def test_next_scale_is_not_taken_where_it_takes_another_pixel():
    """31 of 7 rows are every row of 62 of 14: in the middle a row begins where float32 must not round."""
    mode = MODES["asymmetric"]
    model = parse(f"y = Resize<{mode}>(x, , , size)", "float[1,2,14,5] x", size=np.array([1, 2, 62, 5]))
    made, _ = normalize(model)
    assert len(made.graph.node[0].input) == 4
    with pytest.raises(InputError, match="Resize 'y' makes 1 of them, however many there are"):
        require_free(made)


@pytest.mark.parametrize("sizes", [[2, 2, 14, 10], [1, 4, 14, 10]], ids=["batch", "channels"])
def test_batch_and_channels_that_are_resized_stay_as_they_are(sizes):
    model = parse('y = Resize<mode = "nearest">(x, , , size)', "float[1,2,7,5] x", size=np.array(sizes))
    made, _ = normalize(model)
    assert len(made.graph.node[0].input) == 4
