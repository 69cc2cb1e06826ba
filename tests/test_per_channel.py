"""A number for each channel, however it is written."""

from __future__ import annotations

import click
import pytest
from test_cli import onnx_distill

from onnx_distill.cli import main
from onnx_distill.cli.configuration import command_line, merged

WAYS = {
    "commas": "--mean 104,117.5,-123",
    "blanks": "--mean 104 117.5 -123",
    "repeated": "--mean 104 --mean 117.5 --mean -123",
    "with a sign": "--mean=104,117.5,-123",
    "mixed": "--mean 104 117.5 --mean -123",
}


def context(words: str) -> click.Context:
    root = click.Context(main, **main.context_settings)
    return main.commands["eval"].make_context("eval", words.split(), parent=root)


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("way", list(WAYS.values()), ids=list(WAYS))
def test_every_way_to_write_three_means_gives_the_same(way, where):
    rest = "--scale 0.5 --data d.npz"
    found = context(f"m.onnx {way} {rest}" if where == "before" else f"{rest} {way} m.onnx").params
    assert (found["model"], found["mean"], found["scale"]) == ("m.onnx", (104, 117.5, -123), (0.5,))


@pytest.mark.parametrize("text", ["mean: [104, 117.5, -123]", "mean: 104,117.5,-123", "mean: '104,117.5,-123'"])
def test_a_file_has_them_as_a_list_or_as_text(text, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    assert context(f"m.onnx --data d.npz --config {tmp_path}/c.yaml").params["mean"] == (104, 117.5, -123)


def test_what_is_written_down_of_them_is_read_back():
    found = context("m.onnx --data d.npz --mean 104 117.5 -123")
    assert merged(found)["mean"] == [104, 117.5, -123]
    assert context(command_line(found).partition(" eval ")[2]).params == found.params


@pytest.mark.parametrize("value", ["red", "104,red", "104;117"])
def test_what_is_no_number_is_one_line(value, files):
    result = onnx_distill(f"eval {files}/teacher.onnx --data {files}/test.npz --mean '{value}'")
    assert result.code == 2 and f"'{value}' is no number; wanted one, or one a channel: 104,117,123." in result.err
