"""Imports go one way, and third parties stay in their one file; read from the source, nothing is imported."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "onnx_distill"
STAGES = ("cut", "inspection", "calibrate", "quantize", "train", "export", "evaluate", "compare")
RANK = {
    "__init__": 7,
    "__main__": 7,
    "api": 3,
    "cli": 6,
    "page.run_report": 5,
    "page": 4,
    **dict.fromkeys(("run.folder", "run.finished", "run.refused", "run.seeds"), 3),
    **dict.fromkeys(("run.mlflow_run", "run.tensorboard", "run.result", "run.shown", "run.watch"), 2),
    "verify": 2,
    **dict.fromkeys(("mixed.sensitivity", "mixed.budget"), 2),
    **dict.fromkeys(
        ("ready.calibrated", "ready.deployable", "ready.distillation", "ready.measure", "ready.teacher_check"), 2
    ),
    "report": 3,
    "pipeline": 2,
    **dict.fromkeys(STAGES, 1),
}  # a module has its own rank, else its room's; all others: 0, the ground
NO_HOME = ("utils", "util", "helpers", "common", "misc")  # a helper lives beside its one user


def top(module: str) -> str:
    """'data.idx' -> 'data'; '' is the package itself."""
    return module.split(".")[0]


def imports(source: str) -> set[str]:
    """Every module that the source imports, at its top or inside a function; also what `from package import` names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import: write onnx_distill.<module>"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def named(source: str) -> set[str]:
    """Every string in the source but docstrings: a module named in one may be imported by it."""
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return {node.value for node in constants if isinstance(node.value, str)}


def modules() -> dict[str, str]:
    """Module name below the package -> its source."""
    paths = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
    return {name.replace(".__init__", ""): path.read_text(encoding="utf-8") for name, path in paths.items()}


def edges_of_modules(sources: dict[str, str]) -> set[tuple[str, str]]:
    """(importer, imported) among the modules of the package; what is no module is a name in the one before its last dot."""
    prefix = "onnx_distill."
    read = {(name, other) for name, source in sources.items() for other in imports(source) if other.startswith(prefix)}
    found = {(name, other[len(prefix) :]) for name, other in read}
    found = {(a, b if b in sources else b.rpartition(".")[0]) for a, b in found}
    return {(a, b) for a, b in found if a != b and b in sources}


def edges(sources: dict[str, str]) -> set[tuple[str, str]]:
    """(importer, imported) among the top-level modules and folders of the package."""
    found = {(top(a), top(b)) for a, b in edges_of_modules(sources)}
    return {(a, b) for a, b in found if a != b}


def wrong_way(sources: dict[str, str]) -> set[tuple[str, str]]:
    """The imports of a module of the same rank (the ground aside) or a higher one."""
    rank = lambda name: RANK.get(name, RANK.get(top(name), 0))  # noqa: E731
    return {(a, b) for a, b in edges_of_modules(sources) if rank(b) > rank(a) or rank(a) == rank(b) == 1}


def in_a_circle(pairs: set[tuple[str, str]]) -> set[str]:
    """The modules in a circle of imports, or that need one: what is left when those that need nothing are taken away."""
    left = set(pairs)
    while True:
        importers = {a for a, _ in left}
        rest = {(a, b) for a, b in left if b in importers}
        if rest == left:
            return importers
        left = rest


def names_module(source: str, module: str) -> bool:
    """Whether the source imports the module or what is in it, or names it in a string."""
    return any(name == module or name.startswith(f"{module}.") for name in imports(source) | named(source))


def test_imports_go_from_cli_to_report_to_pipeline_to_stages_to_the_ground():
    assert wrong_way(modules()) == set()


def test_no_module_needs_itself_through_others():
    assert in_a_circle(edges(modules())) == set()


def test_every_ranked_module_exists():
    assert set(RANK) <= set(modules())


def test_errors_numerics_targets_bits_and_config_import_nothing_of_ours_but_each_other():
    found = {(a, b) for a, b in edges(modules()) if a in ("errors", "numerics", "targets", "bits", "config")}
    assert found <= {(a, "errors") for a in ("numerics", "targets", "bits", "config")} | {
        ("config", "targets"),
        ("config", "bits"),
        ("config", "option_names"),
    }


def test_only_ort_knows_onnxruntime_training():
    assert {name for name, source in modules().items() if names_module(source, "onnxruntime.training")} == {"_ort"}


@pytest.mark.parametrize("stranger", ["torch", "torchvision", "tensorflow"])
def test_no_module_imports_another_framework(stranger):
    assert {name for name, source in modules().items() if names_module(source, stranger)} == set()


def test_every_module_is_named_for_its_idea():
    assert {part for name in modules() for part in name.split(".")} & set(NO_HOME) == set()


# --- the checkers see planted faults


@pytest.mark.parametrize(
    "importer, line",
    [
        ("export", "from onnx_distill import cut"),
        ("cut", "from onnx_distill.train import train"),
        ("pipeline", "import onnx_distill.cli"),
        ("model", "def f():\n    from onnx_distill.pipeline import run"),
        ("data.arrays", "from onnx_distill.evaluate import top_k"),
        ("run.watch", "from onnx_distill.run.folder import Folder"),
    ],
)
def test_an_import_the_wrong_way_is_seen(importer, line):
    sources = modules()
    sources[importer] += f"\n{line}\n"
    assert {importer} == {a for a, _ in wrong_way(sources)}


def test_a_circle_is_seen():
    assert in_a_circle({("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")}) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "line", ["import onnxruntime.training.api", "from onnxruntime import training", 'load("onnxruntime.training.api")']
)
def test_a_reference_to_the_training_package_is_seen(line):
    assert names_module(line, "onnxruntime.training")


def test_a_module_named_in_a_docstring_is_no_reference():
    assert not names_module('"""onnxruntime.training is elsewhere"""', "onnxruntime.training")


def test_the_package_as_current_folder_hides_nothing_of_the_standard_library():
    line = [sys.executable, "-c", "import onnx, onnx_distill.api"]
    done = subprocess.run(
        line, cwd=PACKAGE, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
