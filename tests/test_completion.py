"""Shell completion: the scripts, and what they make of a half-typed line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import onnx_distill

PROGRAM = Path(sys.executable).with_name("onnx-distill")


def completed(line: str) -> list[str]:
    """What the bash script gets for the last word of a line."""
    words = line.split(" ")
    variables = {"_ONNX_DISTILL_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run([PROGRAM], env={**os.environ, **variables}, capture_output=True, text=True)
    return [entry.partition(",")[2] for entry in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_of_each_shell_asks_this_program(shell):
    result = onnx_distill(f"completion {shell}")
    assert result.code == 0 and f"_ONNX_DISTILL_COMPLETE={shell}_complete" in result.out


def test_script_is_bash(tmp_path):
    (tmp_path / "script").write_text(onnx_distill("completion bash").out)
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "--norc", "-c", f"source {tmp_path}/script && complete -p onnx-distill"], capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_commands_options_and_values_are_completed():
    assert completed("onnx-distill qu") == ["quantize"]
    assert completed("onnx-distill train --learn") == ["--learn-steps"]
    assert completed("onnx-distill train --schedule c") == ["constant", "cosine"]


def test_unknown_shell_is_an_error():
    result = onnx_distill("completion tcsh")
    assert result.code == 2 and "'tcsh' is not one of 'bash', 'zsh', 'fish'" in result.err
