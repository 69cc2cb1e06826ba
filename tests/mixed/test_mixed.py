"""Mixed precision: the greedy rule against every choice there is, and the laws of budgets."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onnx_distill.errors import InputError
from onnx_distill.mixed import SIZES, Step, rules, steps, weight_bytes, within_accuracy, within_size
from onnx_distill.mixed.ranking import LayerLoss, Score, Sensitivity

COUNTS = {"stem": 100, "wide": 3000, "deep": 1001, "head": 400}
LOSSES = {
    ("stem", 4): 0.02, ("wide", 4): 0.03, ("deep", 4): 0.001, ("head", 4): 0.01,
    ("stem", 2): 0.05, ("wide", 2): 0.5, ("deep", 2): 0.0015, ("head", 2): 0.2,
}  # fmt: skip


def ranking(losses: dict[tuple[str, int], float], counts: dict[str, int] = COUNTS, kind: str = "weight") -> Sensitivity:
    ranked = [LayerLoss(name, kind, bits, counts[name], kl, 0.0, None) for (name, bits), kl in losses.items()]
    return Sensitivity(8, 8, 512, 1024, 0, Score(0.001, 0.99, None), tuple(sorted(ranked, key=lambda loss: -loss.kl)))


def loss_of(taken: list[Step]) -> float:
    return math.fsum(step.loss for step in taken)


def every_choice(found: Sensitivity, size: str) -> list[tuple[int, float]]:
    """(bytes, loss) of all ways to give each layer one of its widths, of those that save bytes: one weight takes a byte in any."""
    names, sized = sorted({loss.layer for loss in found.losses}), SIZES[size]
    counts = [next(x.count for x in found.losses if x.layer == name) for name in names]
    options = [
        [(8, 0.0)] + [(x.bits, x.kl) for x in found.losses if x.layer == name and sized(count, x.bits) < sized(count, 8)]
        for name, count in zip(names, counts)
    ]
    return [
        (sum(SIZES[size](count, bits) for count, (bits, _) in zip(counts, chosen)), math.fsum(kl for _, kl in chosen))
        for chosen in itertools.product(*options)
    ]


def ranked(widths: list[int]):
    """Rankings of up to four layers with any losses, gains among them."""
    layer = st.tuples(st.integers(1, 5000), st.lists(st.floats(-0.01, 1), min_size=len(widths), max_size=len(widths)))
    layers = st.lists(layer, min_size=1, max_size=4)
    return layers.map(
        lambda found: ranking(
            {(f"layer{i}", bits): kl for i, (_, losses) in enumerate(found) for bits, kl in zip(widths, losses)},
            {f"layer{i}": count for i, (count, _) in enumerate(found)},
        )
    )


@pytest.mark.parametrize("size", ["stored", "packed"])
@given(found=ranked([4, 3, 2]))
@example(found=ranking({("layer0", 4): 0.0, ("layer0", 3): 0.0, ("layer0", 2): -0.01}, {"layer0": 1}))
def test_greedy_is_the_best_of_all_choices_for_the_bytes_that_it_takes(size, found):
    order = steps(found, size)
    for count in range(sum(step.loss <= 0 for step in order), len(order) + 1):
        taken = order[:count]
        most = weight_bytes(found, taken, size)
        best = min(loss for bytes_taken, loss in every_choice(found, size) if bytes_taken <= most)
        assert loss_of(taken) == pytest.approx(best, abs=1e-9)


@given(ranked([4, 2]), st.floats(0, 1), st.floats(0, 1), st.sampled_from(list(SIZES)))
def test_a_larger_size_budget_never_loses_more_and_each_is_met(found, one, other, size):
    smaller, larger = sorted((one, other))
    whole = weight_bytes(found, (), size)
    try:
        taken = within_size(found, smaller, size)
    except InputError:
        assert weight_bytes(found, steps(found, size), size) > smaller * whole
        return
    more = within_size(found, larger, size)
    assert weight_bytes(found, taken, size) <= smaller * whole and weight_bytes(found, more, size) <= larger * whole
    assert loss_of(more) <= loss_of(taken) + 1e-12


@given(ranked([4, 2]), st.lists(st.floats(-0.1, 1), min_size=9, max_size=9), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_accuracy_budget_never_takes_more_bytes_and_each_is_met(found, measured, one, other):
    smaller, larger = sorted((one, other))
    loss = lambda taken: measured[len(taken)] if taken else 0.0  # noqa: E731
    less, more = (within_accuracy(found, loss, budget) for budget in (smaller, larger))
    assert loss(less) <= smaller and loss(more) <= larger
    assert weight_bytes(found, more) <= weight_bytes(found, less)


def test_bytes_are_those_of_int4_storage():
    found = ranking({key: kl for key, kl in LOSSES.items() if key[1] == 4})
    assert weight_bytes(found) == 4501
    assert weight_bytes(found, steps(found)) == 50 + 1500 + 501 + 200


def test_the_cheapest_byte_goes_first():
    found = ranking({key: kl for key, kl in LOSSES.items() if key[1] == 4})
    assert [step.layer for step in steps(found)] == ["deep", "wide", "head", "stem"]


def test_of_two_widths_that_take_the_same_bytes_the_better_is_taken():
    found = ranking({("wide", 4): 0.03, ("wide", 3): 0.02})
    assert [(step.bits, step.saved) for step in steps(found)] == [(3, 1500)]


def test_a_width_above_the_convex_hull_is_passed_over():
    found = ranking({("wide", 4): 0.4, ("wide", 2): 0.5})
    assert [(step.bits, step.loss) for step in steps(found, "packed")] == [(2, 0.5)]


def test_each_layer_of_the_ranking_gets_a_rule():
    found = ranking({key: kl for key, kl in LOSSES.items() if key[1] == 4})
    assert rules(found, within_size(found, 2600)) == ("wide=W4", "stem=W8", "head=W8", "deep=W4")


def test_what_gains_is_taken_whatever_the_budget():
    found = ranking({("stem", 4): -0.001, ("wide", 4): 0.03})
    assert [step.layer for step in within_size(found, 1.0)] == ["stem"]


def test_a_budget_that_cannot_be_met_says_what_can():
    found = ranking({key: kl for key, kl in LOSSES.items() if key[1] == 4})
    with pytest.raises(InputError, match=r"2,000 bytes cannot be met.*2,251 bytes at least, 0.500 of the 4,501 at W8"):
        within_size(found, 2000)


def test_activations_go_down_with_an_accuracy_budget_alone():
    both = ranking({("wide", 4): 0.03})
    values = ranking({("stem", 4): 0.001}, kind="activation")
    found = Sensitivity(8, 8, 512, 1024, 0, both.base, both.losses + values.losses)
    assert [step.layer for step in within_size(found, 0.5)] == ["wide"]
    assert {step.layer for step in within_accuracy(found, lambda taken: 0.0, 0.1)} == {"wide", "stem"}
