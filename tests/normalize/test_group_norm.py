import numpy as np
import pytest
from classifier import CONV, becomes, classifier, stays
from equal import operators


@pytest.mark.parametrize("image", CONV.values())
@pytest.mark.parametrize("opset, channels", [(18, 2), (21, 4)])
def test_groups_are_normalized_as_instances(opset, channels, image):
    body = "b = GroupNormalization<num_groups = 2, epsilon = 0.01>(a, scale, bias)"
    model = classifier(body, f"{image} x", opset, scale=(channels,), bias=(channels,))
    made = becomes(model, "group_norm")
    assert "GroupNormalization" not in operators(made) and "InstanceNormalization" in operators(made)


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("axes", ["", "<axes = [2, 3]>", "<axes = [1]>"])
def test_mean_and_variance_are_written_out(axes, opset):
    made = becomes(classifier(f"b = MeanVarianceNormalization{axes}(a)", opset=opset), "group_norm")
    assert "MeanVarianceNormalization" not in operators(made)


def test_a_computed_scale_stays():
    body = "s = Tanh(scale) b = GroupNormalization<num_groups = 2>(a, s, bias)"
    model = classifier(
        body.replace("Tanh(scale)", "ReduceMean<keepdims = 0>(x, most)"),
        opset=21,
        most=np.array([0, 2, 3]),
        bias=(4,),
        head=False,
    )
    stays(model, "group_norm")
