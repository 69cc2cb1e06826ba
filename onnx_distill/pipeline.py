"""The whole way of a model, read top to bottom: cut, quantize, train, export, measure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import onnx

from onnx_distill.config import DistillConfig, QuantizeConfig, TrainConfig
from onnx_distill.cut import cut
from onnx_distill.data import Given, Images, held_out_count, images_from, split
from onnx_distill.errors import InputError
from onnx_distill.facts.logits import find_logits
from onnx_distill.facts.reading import describe
from onnx_distill.mixed.budget import Budget, mixed
from onnx_distill.model import load, save
from onnx_distill.quantization.layer_bits import layer_bits, weights_summary
from onnx_distill.ready.calibrated import calibrated, drawn, image_shape, quantized, ready, rounded
from onnx_distill.ready.deployable import deployable
from onnx_distill.ready.distillation import distill
from onnx_distill.ready.measure import logits_of, rows_of, scores_of
from onnx_distill.run.result import Row, forget_result, records, write_result
from onnx_distill.run.watch import Watch
from onnx_distill.trainable.features import check_names
from onnx_distill.training.fit import check_fit
from onnx_distill.training.state import StateStore
from onnx_distill.training.trained import Trained

TABLE_SEED = 0
FEWEST_IMAGES = 3  # one to train on, one that chooses, one for the table


def quantize_with_images(
    model: onnx.ModelProto,
    images: Given,
    config: QuantizeConfig,
    samples: int = 512,
    seed: int = 0,
    threads: int = 0,
    budget: Budget | None = None,
    validation: int | None = None,
) -> onnx.ModelProto:
    """The QDQ form of a float model that ends in its logits, calibrated on `samples` images drawn at random.

    The model is normalized first; height and width that it leaves free are pinned to the images' own. images: see images_from.
    budget: with it, a ranking of the layers chooses the bits of each. validation: how many images `distill` will hold out with this seed
    (None: data.held_out_count); they are not calibrated on.
    """
    images = images_from(images)
    chosen = drawn(images, samples, seed, validation)
    source = calibrated(model, chosen, config, threads)
    config = mixed(source, images, config, budget, threads) if budget else config
    return describe(rounded(quantized(source, config), source, chosen, config, threads), images)


def _check_same(student: onnx.ModelProto, file: Path, store: StateStore | None) -> None:
    """Raises InputError where a training is to be continued that began with another student than this one."""
    if store is None or store.newest() is None or not file.is_file() or load(file) == student:
        return
    raise InputError(
        f"{file} is another student than this command makes; to go on there, wanted the model and the options that it was made with. "
        "Repeat that command, begin anew with --overwrite, or choose another folder."
    )


def choices(quantization: QuantizeConfig, loss: DistillConfig, config: TrainConfig) -> dict[str, Any]:
    """What result.json says that the models were made with."""
    return {"quantize": asdict(quantization), "distill": asdict(loss), "train": asdict(config)}


def kept_for_the_table(images: Images) -> tuple[Images, Images]:
    """(rest, test): where no test images are given, those of `images` that the table is measured on: as many as are held out of so many.
    They are drawn at random, the same ones whatever the seed of a run, so that the tables of several runs compare. Raises InputError where nothing would be left to train and to choose by."""
    return split(images, table_count(len(images)), TABLE_SEED)


def table_count(images: int) -> int:
    """How many of so many images kept_for_the_table keeps. Raises InputError as it does."""
    if images < FEWEST_IMAGES:
        raise InputError(
            f"{images} image{'s' if images > 1 else ''} cannot be shared out to train, to choose the student and to measure it; wanted {FEWEST_IMAGES} at least, or test images of their own: --test-data."
        )
    return held_out_count(images)


@dataclass(frozen=True, repr=False)
class Outcome:
    """The student's file, what was measured on the test images, the logits behind that (by row), and how it was trained."""

    student: Path
    rows: list[Row]
    scores: dict[str, np.ndarray]
    trained: Trained

    def __repr__(self) -> str:
        shares = ", ".join(f"{row.name} {_share(row)}" for row in self.rows)
        return f"Outcome({self.student}: {shares}; {self.trained!r})"

    def records(self) -> list[dict[str, Any]]:
        """The rows for a table: pandas.DataFrame(outcome.records())."""
        return records(self.rows)


def _share(row: Row) -> str:
    top1, agreement = row.measured.top1, row.measured.agreement
    return f"top-1 {100 * top1:.2f} %" if top1 is not None else f"agreement {100 * (agreement or 0.0):.2f} %"


def run(
    teacher: onnx.ModelProto,
    train_images: Given,
    test_images: Given | None,
    folder: Path,
    quantization: QuantizeConfig,
    loss: DistillConfig,
    config: TrainConfig,
    logits: str | None = None,
    samples: int = 512,
    validation: int | None = None,
    watch: Watch = Watch(),
    store: StateStore | None = None,
    weight_storage: str = "int8",
    also: Sequence[onnx.ModelProto] = (),
    budget: Budget | None = None,
    distill_with: Callable[..., Trained] | None = None,
    batch_sizes: tuple[int, ...] = (1, 64),
    make_way: Callable[[], None] = lambda: None,
) -> Outcome:
    """teacher -> logits.onnx -> student.qdq.onnx -> trained.qdq.onnx -> student.int8.onnx and result.json in `folder`.

    weight_storage: int4 makes it student.int4.onnx; see export. also: further teachers, see distill. budget: see
    quantize_with_images. distill_with: what to call in place of distill, with the same arguments. test_images: None: kept_for_the_table.
    batch_sizes: that latency is measured at, () for none. make_way: called before the first file is written.
    """
    train_images = images_from(train_images)
    if test_images is None:
        train_images, test_images = kept_for_the_table(train_images)
    test_images = images_from(test_images)
    watch.stage("cut")
    float_model = cut(teacher, logits)
    found = find_logits(teacher, logits)
    if logits is None and found.softmax is None:
        watch.note(f"logits: {found.value!r}, {found.reason}")
    if loss.features:
        check_names(ready(float_model, image_shape(train_images)), loss.features)

    watch.stage("quantize")
    seed = config.held_out_seed
    split(train_images, validation, seed)  # what can be refused is refused before anything is computed
    logits_of(float_model, test_images.subset(np.arange(1)))
    student = quantize_with_images(
        float_model, train_images, quantization, samples, seed, config.threads, budget, validation
    )
    check_fit(student, [float_model], train_images, loss)
    _check_same(student, folder / "student.qdq.onnx", store)
    make_way()
    save(float_model, folder / "logits.onnx")
    save(student, folder / "student.qdq.onnx")
    watch.note(weights_summary(layer_bits(student), weight_storage))

    watch.stage("train")
    trained = (distill_with or distill)(student, teacher, train_images, validation, loss, config, watch, store, also)
    forget_result(folder)
    save(trained.best.student, folder / "trained.qdq.onnx")

    watch.stage("export")
    result, exported = (
        deployable(trained.best.student, teacher, None, weight_storage),
        folder / f"student.{weight_storage}.onnx",
    )
    save(result, exported)

    watch.stage("measure")
    if trained.best.epoch:
        models = {"float": teacher, "PTQ": deployable(student, teacher, None, weight_storage), "distilled": result}
    else:
        models = {"float": teacher, "PTQ": result}
    scores = scores_of(models, test_images, config.threads, float_model.graph.output[0].name)
    rows = rows_of(models, scores, test_images, config.threads, batch_sizes)
    write_result(folder, rows, choices(quantization, loss, config), trained.kept)
    return Outcome(exported, rows, scores, trained)
