import numpy as np
import pytest
from classifier import becomes, classifier, stays
from equal import operators

PADS = np.array([0, 0, 1, 0, 0, 0, 2, 1])


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3]])
@pytest.mark.parametrize("value", ["", "half"])
def test_axes_become_pads_of_all(axes, value):
    model = classifier(
        f"b = Pad(a, pads, {value}, axes)",
        opset=18,
        pads=np.arange(2 * len(axes)),
        half=np.float32(0.5),
        axes=np.array(axes),
    )
    made = becomes(model, "pad")
    assert [len(node.input) for node in made.graph.node if node.op_type == "Pad"] == [3]


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_copies_of_pixels_become_gathers(mode):
    made = becomes(classifier(f'b = Pad<mode = "{mode}">(a, pads)', opset=19, pads=PADS), "pad")
    assert "Pad" not in operators(made) and "Gather" in operators(made)


@pytest.mark.parametrize(
    "body, image",
    [
        ("b = Pad(a, pads)", "float[n,4,8,8] x"),
        ('b = Pad<mode = "edge">(a, pads)', "float[n,4,h,w] x"),
        ('b = Pad<mode = "edge">(a, crop)', "float[n,4,8,8] x"),
        ('b = Pad<mode = "wrap">(a, far)', "float[n,4,8,8] x"),
        ("s = Shape(a) p = Concat<axis = 0>(s, s) b = Pad(a, p)", "float[n,4,8,8] x"),
    ],
    ids=["constant", "free size", "crop", "more than once round", "computed"],
)
def test_it_does_not_fire(body, image):
    far, crop = PADS * 8, -PADS
    stays(classifier(body, image, opset=19, head=False, pads=PADS, far=far, crop=crop), "pad")
