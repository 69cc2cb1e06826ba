import pytest
from classifier import becomes, classifier, stays
from equal import operators


@pytest.mark.parametrize("body", ['b = DepthToSpace<blocksize = 2, mode = "DCR">(a)', 'b = DepthToSpace<blocksize = 2, mode = "CRD">(a)', "b = DepthToSpace<blocksize = 2>(a)", "b = SpaceToDepth<blocksize = 2>(a)"])  # fmt: skip
def test_blocks_are_moved_by_a_transpose(body):
    made = becomes(classifier(body, "float[n,4,8,6] x"), "depth_to_space")
    assert not {"DepthToSpace", "SpaceToDepth"} & operators(made)


@pytest.mark.parametrize("operator", ["DepthToSpace", "SpaceToDepth"])
def test_a_free_size_stays(operator):
    stays(classifier(f"b = {operator}<blocksize = 2>(a)", "float[n,4,h,w] x", head=False), "depth_to_space")
