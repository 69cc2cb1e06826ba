from __future__ import annotations

import dataclasses
import functools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from onnx_distill.compare import Layer
from onnx_distill.errors import InputError
from onnx_distill.evaluate import Evaluation
from onnx_distill.page import Answer, Disagreement, Partings, Report, charts, to_html, to_json
from onnx_distill.page.classes import ClassResult
from onnx_distill.page.style import COLOURS
from onnx_distill.run.result import Row

PICTURE = "data:image/png;base64,iVBORw0KGgo="
FLOAT = Row("float <b>", Evaluation(8, 0.9, 1.0, 1.0, 0.0, 1000, {1: 0.001}))
DISTILLED = Row("distilled", Evaluation(8, 0.8, 1.0, 0.75, 0.1, 250, {1: 0.0005}))
RUNNERS = [
    {"name": "simulation", "version": "1.19.2", "top1": 0.8, "float_nodes": None},
    {"name": "openvino", "version": "2025", "top1": 0.8, "float_nodes": 3},
]
PAIR = {"first": "simulation", "second": "openvino", "agreement": 0.875, "differing_images": 2, "largest_steps": 1.0}
WHOLE = Report(
    title="A & B",
    subtitle="W4A4 <student>",
    measured_on="8 images",
    rows=[FLOAT, DISTILLED],
    losses=[(1, 2.0), (2, 1.0)],
    rates=[(1, 1e-3), (2, 0.0)],
    scores=[(0, 0.5), (2, 0.75)],
    score_of="top-1",
    teacher_score=0.8125,
    refused="Refused: <why>",
    layers=[Layer("conv1", "weight", 4, 20.0, 0.1, 0.2), Layer("x" * 80, "activation", 8, float("inf"), 0.0, 0.0)],
    partings=Partings(8, 1, 1, 0, ((0, 1, 1),)),
    confusion=np.array([[3, 1], [0, 4]]),
    classes=[ClassResult(0, 4, 4, 3), ClassResult(1, 4, 3, 3)],
    label_confusion=np.array([[3, 1], [1, 3]]),
    class_names={0: "cat", 1: "dog"},
    disagreements=[Disagreement("a/1.png", PICTURE, Answer(0, 0.9), Answer(1, 0.8), 1)],
    verification={"images": 8, "bound": 0.999, "traced": 1, "runners": RUNNERS, "pairs": [PAIR], "passed": False},
    config={"epochs": 1, "alpha": 0.5},
    chosen={"epochs": 1},
    commands=["onnx-distill run a.onnx"],
    provenance={"weight_bits": "4"},
    versions={"onnx": "1"},
)
TITLES = [
    *(
        "Results",
        "Classes",
        "Training",
        "Where they part",
        "Images on which they part",
        "Noise and bits",
        "Runtimes",
        "Commands",
    ),
    *("Configuration", "Origin and versions"),
]


@functools.lru_cache
def whole() -> str:
    """The page of WHOLE, drawn once."""
    return to_html(WHOLE)


class Checker(HTMLParser):
    """Every element closed in order; collects what would be loaded, ids, and pictures without words."""

    VOID = {"meta", "br", "img", "path", "use", "rect", "image"}

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.tags, self.ids, self.wordless = [], [], [], [], []

    def _seen(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.ids += [value for name, value in attrs if name == "id"]
        if (tag == "img" and not dict(attrs).get("alt")) or (tag == "svg" and not dict(attrs).get("aria-label")):
            self.wordless.append(tag)

    def handle_starttag(self, tag, attrs):
        self._seen(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._seen(tag, attrs)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    return checker


def test_page_is_whole_and_loads_nothing():
    checker = checked(whole())
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in checker.loaded)
    assert checker.tags.count("svg") == 6 and checker.tags.count("img") == 1 and "script" not in checker.tags
    assert "http" not in whole().replace("http://www.w3.org/", "")


def test_every_part_has_a_heading_and_a_link_to_it():
    text = whole()
    assert re.findall(r"<h2 id=\"[\w-]+\">(.*?)</h2>", text) == TITLES
    checker = checked(text)
    links = {address[1:] for address in checker.loaded if address.startswith("#")}
    assert links <= set(checker.ids) and len(checker.ids) == len(set(checker.ids))


def test_every_picture_has_words():
    assert checked(whole()).wordless == []


def test_text_is_escaped():
    text = whole()
    assert "A &amp; B" in text and "float &lt;b&gt;" in text and "<student>" not in text and "float <b>" not in text


def test_page_says_the_facts_in_words():
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", whole()))
    for said in (
        "They differ on 1 of 8 images (12.50 %): on 1 the teacher is right, on 0 the student, on 0 neither.",
        "teacher cat (90 %) student dog (80 %) label dog",
        "Of 2 values, weights: 1 at 4 bits; activations: 1 at 8 bits.",
        "Least agreement of any two on 8 images: 87.50 %; wanted 99.9 %: too low",
        "Refused: &lt;why&gt;.",
        "cat 4 100.00 75.00 -25.00 30.06 to 95.44 dog 4 75.00 75.00 0.00 30.06 to 95.44",  # Wilson's interval of 3 in 4
        "The student's top-1 is -12.50 points from the float model's on the same images, which may be chance:",
        "top-1 80.00 % float &lt;b&gt; 90.00",
        "times smaller 4.00x 0 kB, float &lt;b&gt; 1 kB",
        "times as fast, batch 1 2.00x 0.5 ms, float &lt;b&gt; 1 ms",
    ):
        assert said in text, said


def test_same_report_is_the_same_page():
    assert to_html(WHOLE) == whole()


@pytest.mark.parametrize(
    "text",
    [
        charts.line([(1, 2.0), (2, 1.0)], "loss", "said", logarithmic=True),
        charts.line([(1, 2.0), (2, 2.0)], "loss", "said"),
        charts.noise(WHOLE.layers, "weight"),
        charts.confusion(np.array([[3, 1], [0, 4]]), ["a", "b"], "said"),
    ],
    ids=["line", "constant", "noise", "confusion"],
)
def test_charts_take_their_colours_from_the_page(text):
    assert "currentColor" in text and "var(--first)" in text
    assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]", text)  # none of those that stand for a colour is left
    assert not re.search(r"(fill|stroke): #000000", text) and not re.search(r"<svg[^>]* (width|height)=", text)


def luminance(colour: str) -> float:
    """Of WCAG 2: relative luminance of an sRGB colour #rrggbb."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("shade", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["ground", "panel"])
@pytest.mark.parametrize("name", ["ink", "soft-ink", "first", "second", "good", "bad"])
def test_text_has_the_contrast_that_wcag_asks_for(name, ground, shade):
    lights = sorted(luminance(COLOURS[one][shade]) for one in (name, ground))
    assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5


def test_empty_parts_are_left_out():
    text = to_html(Report("bare", [FLOAT]))
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", text) == ["Results"] and "<dl" not in text


def test_values_without_noise_are_said_not_drawn():
    layers = [Layer("a", "weight", 4, None, 0.0, 0.0), Layer("b", "weight", 4, float("-inf"), 1.0, 1.0)]
    text = to_html(dataclasses.replace(Report("t", [FLOAT]), layers=layers))
    assert "<svg" not in text and ">-</td>" in text and ">lost</td>" in text


def test_many_values_are_folded_below_the_noisiest():
    layers = [Layer(f"v{i}", "activation", 4, float(i), 0.0, 0.0) for i in range(40, 0, -1)]
    text = to_html(Report("t", [FLOAT], layers=layers))
    first, _, rest = text.partition("<details>")
    assert (
        first.count('<th scope="row">v') == 10 and '<th scope="row">v1<' in first and rest.count('<th scope="row">v') == 40
    )


def test_only_what_was_chosen_of_the_configuration_is_not_folded():
    shown, _, folded = whole().partition('id="configuration"')[2].partition("<details>")
    assert "epochs: 1" in shown and "alpha" not in shown and "<summary>All 2 options</summary>" in folded
    assert "alpha: 0.5" in folded.partition("</details>")[0]


def test_the_float_model_is_a_line_in_the_curve_of_scores():
    assert "; the float model has 81.25 %" in whole() and ">float</text>" in whole()
    without = to_html(dataclasses.replace(WHOLE, teacher_score=None))
    assert "the float model has" not in without and ">float</text>" not in without


def test_a_line_far_above_the_curve_is_inside_the_picture():
    drawn = charts.line([(1, 10.0), (2, 11.0)], "score", "said", level=95.0)
    heights = [
        float(y) for y in re.findall(r"M [\d.]+ ([\d.]+) ?\nL [\d.]+ \1", drawn)
    ]  # horizontal lines, the level among them
    height = float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', drawn)[1])
    assert heights and all(0 <= y <= height for y in heights)


@pytest.mark.parametrize("first, last", [(1, 1), (1, 2), (1, 29), (30, 66), (301, 4000)])
def test_numbers_below_the_noise_are_few_and_begin_and_end_with_values(first, last):
    _, axes = charts.pyplot().subplots()
    charts._ticks(axes, first, last)
    shown = [int(number) for number in axes.get_xticks()]
    assert (shown[0], shown[-1]) == (first, last) and len(shown) <= 10 and shown == sorted(set(shown))


def test_long_names_of_classes_are_shortened_beside_a_confusion_alone():
    text = to_html(dataclasses.replace(WHOLE, class_names={0: "a class of many words", 1: "dog"}))
    assert ">a class of many w…</text>" in text and ">a class of many words</th>" in text


def test_of_many_classes_those_that_lost_the_most_stand_above_the_folded_rest():
    classes = [ClassResult(number, 100, 90, 90 - number) for number in range(30)]
    text = to_html(Report("t", [FLOAT], classes=classes))
    first, _, rest = text.partition("<details>")
    found = re.findall(r'<th scope="row">(\d+)</th>', first)
    assert found == [str(number) for number in range(29, 19, -1)] and rest.count('<th scope="row">') == 30


def test_cells_of_wide_tables_say_their_heads_where_lines_are_stacked():
    assert (
        '<table aria-label="8 images; ratios in brackets are to the first line; sizes are of the files" class="stacks">'
        in whole()
    )
    assert '<td data-head="top-1 %">80.00' in whole() and "content: attr(data-head)" in whole()


def test_of_many_classes_those_that_part_most_are_shown():
    counts = np.diag(np.full(50, 9))
    counts[3, 40], counts[7, 8] = 5, 2
    text = to_html(dataclasses.replace(WHOLE, confusion=counts, class_names={40: "forty", 30: "thirty"}))
    assert "the 20 classes that part most" in text and ">forty<" in text and ">thirty<" not in text


def test_json_holds_the_same_facts():
    facts = json.loads(to_json(WHOLE))
    assert set(facts) == {field.name for field in dataclasses.fields(Report)}
    assert (
        facts["title"] == "A & B"
        and facts["confusion"] == [[3, 1], [0, 4]]
        and facts["config"] == {"epochs": 1, "alpha": 0.5}
    )
    assert facts["rows"][0]["measured"]["top1"] == 0.9 and facts["layers"][0]["noise_db"] == 20
    assert facts["layers"][1]["noise_db"] is None and facts["class_names"] == {"0": "cat", "1": "dog"}
    assert (
        facts["disagreements"][0]["teacher"] == {"number": 0, "share": 0.9}
        and facts["disagreements"][0]["picture"] == PICTURE
    )


def test_report_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"onnx-distill\[report\]"):
        to_html(WHOLE)
