import numpy as np
import pytest
from classifier import CONV, becomes, classifier, stays
from equal import operators


@pytest.mark.parametrize("image", CONV.values())
@pytest.mark.parametrize("kernel, stride, pad, added, dilation", [(2, 2, 0, 0, 1), (3, 2, 1, 1, 1), (3, 1, 1, 0, 1), (4, 3, 0, 2, 1), (3, 2, 0, 1, 2), (2, 4, 0, 1, 1), (3, 2, 2, 0, 1), (2, 2, 2, 0, 1)])  # fmt: skip
@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolutions_become_convolutions(image, kernel, stride, pad, added, dilation, group):
    axes = image.count(",") - 1
    written = {
        "strides": [stride] * axes,
        "pads": [pad] * 2 * axes,
        "output_padding": [added] * axes,
        "dilations": [dilation] * axes,
    }
    attributes = ", ".join(f"{name} = {value}" for name, value in written.items())
    model = classifier(
        f"b = ConvTranspose<{attributes}, group = {group}>(a, w2, v)",
        f"{image} x",
        w2=(4, 6 // group, *[kernel] * axes),
        v=(6,),
    )
    # groups over three axes are not trained (trainable/trainability.py): the runtime's gradient writes where it should not (1.19.2)
    made = becomes(model, "conv_transpose", trains=(kernel, group) != (4, 2) and (axes, group) != (3, 2))
    assert "ConvTranspose" not in operators(made)


@pytest.mark.parametrize(
    "body, image",
    [
        ("b = ConvTranspose(a, w2)", "float[n,4,h,w] x"),
        ("s = ReduceMean<axes = [0, 2, 3]>(a) k = Mul(w2, s) b = ConvTranspose(a, k)", "float[n,4,8,8] x"),
    ],
    ids=["free size", "computed weight"],
)
def test_it_does_not_fire(body, image):
    stays(classifier(body, image, head=False, w2=np.ones((4, 4, 2, 2), "f")), "conv_transpose")
