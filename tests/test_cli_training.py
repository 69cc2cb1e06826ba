"""What `train` and `run` choose where nobody does, what they say of it, and a student that training did not make better."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import onnx
import pytest
from test_cli import CLIPPED, given, onnx_distill  # noqa: F401  # `given` is a fixture
from test_cli_runs import QUICK, improved, train

from onnx_distill.cli import main
from onnx_distill.cli.configuration import merged
from onnx_distill.facts.provenance import provenance

DATA = "--data {files}/test.npz --mean 127.5 --scale 0.01"
IN_VAIN = "--lr 1e-9 --step-rate 0"  # moves next to nothing


def run(files: Path, folder: Path, more: str = "") -> str:
    data = DATA.format(files=files)
    return f"run {files}/teacher.onnx {data} --test-data {files}/test.npz {QUICK} {more} -o {folder}"


def done(line: str):
    result = onnx_distill(line)
    assert result.code == 0, result.err
    return result


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def student(folder: Path) -> onnx.ModelProto:
    return onnx.load(str(folder / "student.int8.onnx"))


# --- what is chosen where nobody does

AUTO = "epochs lr step-rate batch-size alpha validation mixup".split()


def root() -> click.Context:
    """A command keeps the help options of the first context that it is given, for the rest of the process."""
    return click.Context(main, **main.context_settings)


def context(name: str, more: str):
    line = {"train": "s.onnx --teacher t.onnx --data d.npz -o run", "run": "t.onnx --data d.npz --test-data d.npz -o run"}
    return main.commands[name].make_context(name, f"{line[name]} {more}".split(), parent=root())


@pytest.mark.parametrize("option", AUTO)
@pytest.mark.parametrize("name", ["train", "run"])
def test_auto_is_the_default_on_the_command_line_and_in_a_file(name, option, tmp_path):
    (tmp_path / "c.yaml").write_text(f"{option}: auto\n")
    plain = context(name, "")
    for more in (f"--{option} auto", f"--config {tmp_path}/c.yaml"):
        found = context(name, more)
        assert {**found.params, "config": None} == {**plain.params, "config": None} and merged(found) == merged(plain)
    parameter = next(p for p in plain.command.params if f"--{option}" in p.opts)
    assert plain.params[parameter.name] is None and "[default: auto]" in parameter.help


def test_auto_on_the_command_line_takes_back_what_a_file_says(tmp_path):
    (tmp_path / "c.yaml").write_text("epochs: 3\nlr: 0.5\n")
    assert context("train", f"--config {tmp_path}/c.yaml --epochs auto").params["epochs"] is None
    assert context("train", f"--config {tmp_path}/c.yaml --epochs auto").params["learning_rate"] == 0.5


def test_a_training_with_auto_is_the_one_with_no_option(files, tmp_path):
    line = f"train {files}/s.onnx --teacher {files}/teacher.onnx {DATA.format(files=files)} --threads 1 --no-report"
    (tmp_path / "c.yaml").write_text("".join(f"{option}: auto\n" for option in AUTO))
    plain = done(f"{line} -o {tmp_path}/plain")
    assert "epoch 0.00: " in plain.err and "of 15 held-out images" in plain.err  # a quarter of so few
    said = r"^100 updates of 45 images \(100 passes over 45\), about \d+ s, learning rate 0.001 quantization steps$"
    assert re.search(said, plain.err, re.MULTILINE)
    done(f"{line} {' '.join(f'--{option} auto' for option in AUTO)} -o {tmp_path}/typed")
    done(f"{line} --config {tmp_path}/c.yaml -o {tmp_path}/file")
    made = [(tmp_path / name / "student.int8.onnx").read_bytes() for name in ("plain", "typed", "file")]
    assert made[0] == made[1] == made[2] and logged(tmp_path / "plain")[-1]["epoch"] == 100
    saved = (tmp_path / "typed" / "config.yaml").read_text()
    assert not re.search(rf"^({'|'.join(AUTO).replace('-', '_')}):", saved, re.MULTILINE)


@pytest.mark.parametrize("command", ["train", "run"])
def test_images_without_labels_need_no_alpha(command, given, tmp_path):  # noqa: F811
    data = f"--data {given}/unlabelled.npz --epochs 1 --batch-size 8 --validation 20 --threads 1 --train always --no-report"
    line = {
        "train": f"train {given}/student.onnx --teacher {given}/teacher.onnx {data}",
        "run": f"run {given}/teacher.onnx --test-data {given}/unlabelled.npz {data}",
    }[command]
    done(f"{line} -o {tmp_path}/run")
    found = provenance(student(tmp_path / "run"))
    assert found["alpha"] == "1.0" and found["score_of"] == "agreement with the teacher on 20 held-out images"


@pytest.mark.parametrize(
    "more, rate",
    [
        ("", "0.3 quantization steps"),
        ("--lr auto", "0.001 quantization steps"),
        ("--units plain --lr auto", "0.001"),
        ("--optimizer sgd --lr auto", "0.01"),
        ("--accumulate 3 --lr 0.05", "0.05 quantization steps"),
    ],
)
def test_a_training_says_first_how_long_it_is_and_its_rate_with_the_unit(more, rate, files, tmp_path):
    lines = done(train(files, tmp_path / "run", more)).err.splitlines()
    updates, batch = (8, 12) if "accumulate" in more else (24, 4)
    said = f"{updates} updates of {batch} images (2 passes over 48), learning rate {rate}"
    assert [line for line in lines if " updates of " in line] == [said]
    assert all(
        re.match(r"epoch 0\.00: |.*: 60 images, read as |(warning: )?teacher: ", line) for line in lines[: lines.index(said)]
    )


# --- a student that training did not make better


@pytest.mark.parametrize("command", ["train", "run"])
def test_training_that_did_not_help_is_said_wherever_the_student_is_shown(command, files, tmp_path):
    folder = tmp_path / "run"
    line = {"train": train, "run": run}[command](files, folder, f"{IN_VAIN} --report")
    result = done(f"{line} {CLIPPED if command == 'run' else ''}")
    (kept,) = re.findall(r"^warning: (training did not help: .*)$", result.err, re.MULTILINE)
    assert "on 12 held-out images. The student is the PTQ model. Likely because 12 held-out images cannot show" in kept
    assert json.loads((folder / "trained.json").read_text())["kept"] == kept == provenance(student(folder))["kept"]
    shown = done(f"inspect {folder}/student.int8.onnx").out
    assert f"kept {kept}" in shown
    page = (folder / "report.html").read_text()
    assert f"T{kept[1:]}.</p>" in page and [row["name"] for row in rows_of(folder)] == ["float", "PTQ"]
    said = [result.out, result.err, shown, page, (folder / "report.json").read_text()]
    if command == "run":
        summary = json.loads((folder / "result.json").read_text())
        assert summary["kept"] == kept and [row["name"] for row in summary["rows"]] == ["float", "PTQ"]
        assert [line.split()[0] for line in result.out.splitlines()[1:]] == ["float", "PTQ"]
        said.append((folder / "result.json").read_text())
    else:
        assert result.out.startswith(f"{folder}/student.int8.onnx: the PTQ model, ")
    assert [text for text in said if "distilled" in text or "trained on" in text] == []


def rows_of(folder: Path) -> list[dict]:
    return json.loads((folder / "report.json").read_text())["rows"]


def test_json_of_a_training_that_did_not_help_says_why(files, tmp_path):
    found = json.loads(done(train(files, tmp_path / "run", f"{IN_VAIN} --json")).out)
    first = logged(tmp_path / "run")[0]
    assert found["kept"].startswith("training did not help") and found["epoch"] == 0
    assert (found["best"], found["kl"]) == (found["before"], first["kl"]) == (first["score"], first["kl"])


def test_what_is_exported_then_is_the_model_that_training_began_with(files, tmp_path):
    done(train(files, tmp_path / "run", IN_VAIN))
    done(f"export {files}/s.onnx --teacher {files}/teacher.onnx -o {tmp_path}/ptq.onnx")
    (ptq, kept) = (
        [*model.graph.initializer] for model in (onnx.load(str(tmp_path / "ptq.onnx")), student(tmp_path / "run"))
    )
    assert ptq == kept


def test_a_report_made_again_says_it_too(files, tmp_path):
    folder = tmp_path / "run"
    done(run(files, folder, f"{CLIPPED} {IN_VAIN} --report"))
    before = rows_of(folder)
    (folder / "report.json").unlink()
    result = done(f"report {folder}")
    after = rows_of(folder)
    for row in [*before, *after]:
        del row["measured"]["latency_seconds"]
    assert after == before and "distilled" not in result.out + (folder / "report.html").read_text()


def test_result_that_is_missing_of_a_finished_run_says_it_too(files, tmp_path):
    folder, line = tmp_path / "run", run(files, tmp_path / "run", f"{CLIPPED} {IN_VAIN}")
    done(line)
    kept = json.loads((folder / "result.json").read_text())["kept"]
    (folder / "result.json").unlink()
    assert f"warning: {kept}" in done(f"{line} --resume").err
    summary = json.loads((folder / "result.json").read_text())
    assert kept and summary["kept"] == kept and [row["name"] for row in summary["rows"]] == ["float", "PTQ"]


def test_seeds_that_all_trained_in_vain_leave_the_ptq_model(files, tmp_path):
    folder = tmp_path / "run"
    result = done(run(files, folder, f"{CLIPPED} {IN_VAIN} --seeds 2 --report"))
    assert "warning: training did not help" in result.err and "distilled" not in result.out + result.err
    assert [row["name"] for row in rows_of(folder)] == ["float", "PTQ"]
    done(f"report {folder}/seed-1")
    assert [row["name"] for row in rows_of(folder / "seed-1")] == ["float", "PTQ"]


@pytest.mark.parametrize("more, names", [("", ["float", "PTQ", "distilled"]), (IN_VAIN, ["float", "PTQ"])])
def test_a_run_that_goes_on_calls_its_student_distilled_only_once_it_is_a_trained_one(more, names, files, tmp_path):
    """It ran out of time: whether training helped is not judged yet."""
    folder = tmp_path / "run"
    result = done(run(files, folder, f"{CLIPPED} {more} --max-minutes 1e-9 --report"))
    assert "minutes are over" in result.err and [row["name"] for row in rows_of(folder)] == names
    page = (folder / "report.html").read_text()
    assert ("distilled" in page) == ("distilled" in names)
    assert ("It is the PTQ model: no trained one was better yet." in page) == ("distilled" not in names)


# --- a student that is its teacher's equal already


def test_w8a8_that_is_its_teachers_equal_is_exported_without_a_training(files, tmp_path):
    folder = tmp_path / "run"
    result = done(run(files, folder, "--report"))
    (said,) = re.findall(r"^PTQ is enough: the KL to the teacher is .*$", result.err, re.MULTILINE)
    assert "on 12 held-out images, at most " in said and "nothing was trained (--train always trains all the same)" in said
    assert "warning: PTQ" not in result.err and " updates of " not in result.err and result.err.count("epoch ") == 1
    assert f"{folder}/student.int8.onnx: the PTQ model\n" in result.err
    assert [("step" in line, line["epoch"]) for line in logged(folder)] == [(False, 0)]
    assert json.loads((folder / "result.json").read_text())["kept"] == said == provenance(student(folder))["kept"]
    page = (folder / "report.html").read_text()
    assert said in page and "distilled" not in result.out + result.err + page
    assert [row["name"] for row in rows_of(folder)] == ["float", "PTQ"]


def test_train_always_trains_it_all_the_same(files, tmp_path):
    result = done(run(files, tmp_path / "run", "--train always --log-every 1"))
    assert "PTQ is enough" not in result.err and max(line.get("step", 0) for line in logged(tmp_path / "run")) == 24


@pytest.mark.parametrize("more", ["", "--seeds 2"], ids=["one seed", "seeds"])
def test_a_finished_run_without_a_training_is_left_as_it_is(more, files, tmp_path):
    line = run(files, tmp_path / "run", more)
    first = done(line)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = done(f"{line} --resume")
    assert "is finished: nothing is left to train" in again.err and again.out == first.out
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_student_that_lost_much_is_trained_and_called_distilled(files, tmp_path):
    result = done(run(files, tmp_path / "run", f"{CLIPPED} --report"))
    assert improved(tmp_path / "run") and "kept" not in provenance(student(tmp_path / "run"))
    assert [row["name"] for row in rows_of(tmp_path / "run")] == ["float", "PTQ", "distilled"]
    assert "student.int8.onnx: trained on 96 images at " in result.err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["kept"] == ""
