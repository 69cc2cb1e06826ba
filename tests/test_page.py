from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from onnx_distill import charts
from onnx_distill.compare import Layer
from onnx_distill.errors import InputError
from onnx_distill.evaluate import Evaluation
from onnx_distill.page import Disagreement, Report, to_html, to_json
from onnx_distill.pipeline import Row

ROW = Row(
    "float <b>", Evaluation(count=8, top1=0.9, top5=1.0, agreement=1.0, kl=0.0, size_bytes=1000, latency_seconds={1: 0.001})
)
WHOLE = Report(
    title="A & B",
    rows=[ROW],
    losses=[(1, 2.0), (2, 1.0)],
    scores=[(0, 0.5), (2, 0.75)],
    layers=[Layer("conv1", "weight", 4, 20.0, 0.1, 0.2), Layer("x" * 80, "activation", 8, float("inf"), 0.0, 0.0)],
    confusion=np.array([[3, 1], [0, 4]]),
    class_names=["cat", "dog"],
    disagreements=[Disagreement(np.arange(12.0).reshape(1, 3, 4), 0, 1, 1), Disagreement(np.ones((3, 2, 2)), 1, 0, None)],
    config={"epochs": 1},
    commands=["onnx-distill run a.onnx"],
    versions={"onnx": "1"},
)


class Checker(HTMLParser):
    """Every element closed in order; collects what would be loaded."""

    VOID = {"meta", "br", "img", "path", "use", "rect", "image"}

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    return checker


def test_page_is_whole_and_loads_nothing():
    checker = checked(to_html(WHOLE))
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in checker.loaded)
    assert checker.tags.count("svg") == 3 and checker.tags.count("img") == 2 and "script" not in checker.tags
    assert "http" not in re.sub(
        r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>', "", to_html(WHOLE), flags=re.DOTALL
    ).replace("http://www.w3.org/", "")


def test_text_is_escaped():
    text = to_html(WHOLE)
    assert "A &amp; B" in text and "float &lt;b&gt;" in text and "float <b>" not in text


def test_same_report_is_the_same_page():
    assert to_html(WHOLE) == to_html(WHOLE)


def test_charts_take_the_colour_of_the_page():
    text = charts.training([(1, 2.0), (2, 1.0)], [(0, 0.5)])
    assert "currentColor" in text and charts.INK not in text
    assert "onnx" not in text and not re.search(r"<svg[^>]* (width|height)=", text)


def test_empty_parts_are_left_out():
    text = to_html(Report("bare", [ROW]))
    assert checked(text).tags.count("h2") == 0


def test_json_holds_the_same_facts_without_pictures():
    facts = json.loads(to_json(WHOLE))
    assert facts["title"] == "A & B" and facts["confusion"] == [[3, 1], [0, 4]] and facts["config"] == {"epochs": 1}
    assert facts["rows"][0]["measured"]["top1"] == 0.9 and facts["layers"][0]["noise_db"] == 20
    assert facts["layers"][1]["noise_db"] is None and "disagreements" not in facts


def test_report_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"onnx-distill\[report\]"):
        to_html(WHOLE)
