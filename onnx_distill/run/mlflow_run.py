"""A run as MLflow shows it, through MLflow's own client: options as parameters; loss, rate, held-out score and KL by step.

The log is the truth: a run that is continued gets the lines that its MLflow run lacks, and one that goes back gets another MLflow run
in place of the first, for MLflow cannot take back a value.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Callable

from onnx_distill.errors import InputError, first_line
from onnx_distill.files.replacing import replacing
from onnx_distill.run.log_table import AFTER
from onnx_distill.run.tensorboard import LOSS, RATE, SCORE

FILE = "mlflow.json"  # in the run's folder: which MLflow run it is
EXPERIMENT = "onnx-distill"  # unless MLFLOW_EXPERIMENT_NAME says another
KL = "held_out/kl"
METRICS = {"loss": LOSS, "learning_rate": RATE, "score": SCORE, "kl": KL}  # as log.jsonl names them -> as MLflow shows them
LONGEST = 500  # letters of a parameter that every store of MLflow takes


class MlflowRun:
    """Where it logs to is MLflow's own choice: MLFLOW_TRACKING_URI, else its default."""

    def __init__(self, folder: Path, warn: Callable[[str], None]):
        """Raises InputError without mlflow, and where its server or file cannot be reached."""
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError:
            raise InputError("--track mlflow needs mlflow; run: pip install 'onnx-distill[mlflow]'") from None
        self._folder, self._warn, self._error = folder, warn, MlflowException
        self._known: set[tuple[str, int]] = set()  # (metric, step) that the MLflow run has
        self._run = ""
        self._options: Mapping[str, Any] = {}
        self._fresh = False  # an MLflow run is made with the first value: the folder of several seeds has none of its own
        try:
            self._client = MlflowClient()
            self._experiment = self._found_experiment()
        except MlflowException as error:
            raise InputError(
                f"--track mlflow: MLflow cannot be reached ({first_line(error)}). Set MLFLOW_TRACKING_URI, or leave --track out."
            ) from None

    def begin(self, options: Mapping[str, Any], lines: Iterable[Mapping[str, float]]) -> None:
        """options: shown as parameters. lines: of the log so far, where the run is continued."""
        self._options = options
        lines = list(lines)
        self._fresh = not (lines and (self._folder / FILE).is_file())
        if not self._fresh:
            self._safely(self._continue)
        self.add(*lines)

    def add(self, *lines: Mapping[str, float]) -> None:
        """What these lines of the log hold, but for values that the MLflow run has already."""
        from mlflow.entities import Metric

        if self._fresh and lines:
            self._fresh = False
            self._safely(self._create)
        values = {(name, _step(line)): value for line in lines for name, value in _metrics(line)}
        new = {place: value for place, value in values.items() if place not in self._known}
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for (name, step), value in new.items()]
        if self._run:
            self._safely(
                lambda: [self._client.log_batch(self._run, metrics[at : at + 500]) for at in range(0, len(metrics), 500)]
            )
            self._known.update(new)

    def restart(self, lines: Iterable[Mapping[str, float]]) -> None:
        """The run goes back to where these lines end: another MLflow run takes the place of this one, which is deleted."""
        if self._run:
            self._safely(lambda: self._client.delete_run(self._run))
            self._safely(self._create)
            self.add(*lines)

    def close(self) -> None:
        if self._run:
            self._safely(lambda: self._client.set_terminated(self._run))

    def _found_experiment(self) -> str:
        from mlflow.environment_variables import MLFLOW_EXPERIMENT_NAME

        name = MLFLOW_EXPERIMENT_NAME.get() or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found is not None else self._client.create_experiment(name)

    def _create(self) -> None:
        from mlflow.entities import Param

        name = self._folder.resolve().name
        self._run = self._client.create_run(self._experiment, run_name=name).info.run_id
        self._known = set()
        params = [Param(name, str(value)[:LONGEST]) for name, value in self._options.items()]
        self._client.log_batch(self._run, params=params[:100])
        with replacing(self._folder / FILE) as temporary:
            temporary.write_text(json.dumps({"run_id": self._run}))

    def _continue(self) -> None:
        self._run = json.loads((self._folder / FILE).read_text(encoding="utf-8"))["run_id"]
        self._client.update_run(self._run, status="RUNNING")
        history = [(name, self._client.get_metric_history(self._run, name)) for name in METRICS.values()]
        self._known = {(name, metric.step) for name, metrics in history for metric in metrics}

    def _safely(self, call: Callable[[], Any]) -> None:
        """A server that fails ends what is logged to it, not a training of hours: the log has it all, and --resume catches up."""
        try:
            call()
        except self._error as error:
            self._run = ""
            self._warn(f"MLflow: {first_line(error)}; nothing more is logged there, the run goes on")


def _metrics(line: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(METRICS[name], float(value)) for name, value in line.items() if name in METRICS]


def _step(line: Mapping[str, float]) -> int:
    return int(line[AFTER] if AFTER in line else line["step"])
