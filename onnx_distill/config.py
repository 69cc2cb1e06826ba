"""The choices a user has in quantize and train: one a line, with unit and rule of thumb, checked when made."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Optional

from onnx_distill.bits import Rule, parse_rule
from onnx_distill.errors import InputError
from onnx_distill.option_names import by_option_names
from onnx_distill.targets import DEFAULT, target_of


def _check(holds: bool, found: str, wanted: str) -> None:
    if not holds:
        raise InputError(f"{found}; wanted {wanted}.")


@by_option_names
@dataclass(frozen=True)
class QuantizeConfig:
    weight_bits: int = 8  # 2..8; 8 costs nothing, 4 wants training, 2 wants long training
    activation_bits: int = 8  # 2..8
    edge_bits: int = 8  # first and last layer; 0 treats them like the others
    per_channel: Optional[bool] = (
        None  # one weight scale per output channel; False loses tens of points on depthwise nets; None: the target's
    )
    symmetric: Optional[bool] = None  # activations with zero point 0 in int8; None: the target's
    calibration_method: str = "auto"  # auto: mse
    percentile: Optional[float] = (
        None  # % of values inside the range, for the method percentile; None: 99.99, or 99.7 below 7 bits
    )
    rounding: str = "auto"  # of weights: nearest | compensated (rounding/compensated.py); auto: compensated below 7 bits
    exclude: tuple[str, ...] = ()  # node name patterns left in float
    bits: tuple[str, ...] = ()  # of single layers, such as 'block_3/*=W4A8'; of those that match, the last
    target: str = DEFAULT  # the runtime that it is for, a row of targets.py

    def __post_init__(self):
        target = target_of(self.target)
        for name in ("symmetric", "per_channel"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(target, name))
        for name in ("weight_bits", "activation_bits"):
            value = getattr(self, name)
            _check(2 <= value <= 8, f"{name} is {value}", "2 to 8")
        _check(self.edge_bits == 0 or 2 <= self.edge_bits <= 8, f"edge_bits is {self.edge_bits}", "2 to 8, or 0 for none")
        _check(
            self.symmetric or not target.symmetric,
            "activations are asymmetric",
            f"symmetric ones for {self.target}: leave out --asymmetric",
        )
        _check(
            target.clips or (self.activation_bits == 8 and self.edge_bits in (0, 8)),
            f"activations have {min(self.activation_bits, self.edge_bits or 8)} bits",
            f"8 for {self.target}, which reads no Clip between its quantizers",
        )
        object.__setattr__(self, "bits", tuple(self.bits))  # lists come out of JSON
        rules = self.rules
        _check(
            target.clips or all(rule.activation in (None, 8) for rule in rules),
            f"the activations of a layer have other bits than 8 in {self.bits}",
            f"8 for {self.target}, which reads no Clip between its quantizers",
        )
        methods = ("auto", "minmax", "percentile", "mse", "entropy")
        _check(self.calibration_method in methods, f"calibration_method is {self.calibration_method!r}", " | ".join(methods))
        roundings = ("auto", "nearest", "compensated")
        _check(self.rounding in roundings, f"rounding is {self.rounding!r}", " | ".join(roundings))
        _check(
            self.percentile is None or 50 < self.percentile <= 100,
            f"percentile is {self.percentile}",
            "above 50 and at most 100",
        )

    @property
    def rules(self) -> list[Rule]:
        """`bits`, read. Raises InputError for one that cannot be."""
        return [parse_rule(text) for text in self.bits]


@by_option_names
@dataclass(frozen=True)
class DistillConfig:
    temperature: float = 20.0  # T, softens both distributions; 1..20, the seed's 20 by default
    alpha: Optional[float] = None  # weight of the teacher's part; 1 needs no labels. None: 0.9, or 1 without labels
    kl: str = "forward"  # forward: KL(teacher || student), Hinton; reverse: KL(student || teacher), as in MNN
    label_smoothing: float = 0.0  # share of a label that is spread over all classes; 0.1 is usual
    features: tuple[str, ...] = ()  # inner values to be like the teacher's: NAME, TEACHER=STUDENT, or auto; see trainable/
    feature_weight: float = 1.0  # weight of their error, a share of 1, beside the other parts

    def __post_init__(self):
        object.__setattr__(self, "features", tuple(self.features))  # lists come out of JSON
        _check(0 <= self.feature_weight < math.inf, f"feature_weight is {self.feature_weight}", "0 or more and finite")
        _check(0 < self.temperature < math.inf, f"temperature is {self.temperature}", "above 0 and finite")
        _check(self.alpha is None or 0 <= self.alpha <= 1, f"alpha is {self.alpha}", "0 to 1")
        _check(0 <= self.label_smoothing < 1, f"label_smoothing is {self.label_smoothing}", "at least 0 and below 1")
        _check(self.kl in ("forward", "reverse"), f"kl is {self.kl!r}", "forward | reverse")

    @property
    def teacher_share(self) -> float:
        """alpha, or what stands for it where images have labels and none was chosen."""
        return 0.9 if self.alpha is None else self.alpha

    def of_images(self, labelled: bool) -> DistillConfig:
        """The same with alpha chosen: without labels the teacher alone is learned from."""
        return replace(self, alpha=self.teacher_share if labelled or self.alpha is not None else 1.0)


RATES = {"natural": 0.01, "adamw": 1e-3, "sgd": 1e-2}  # usual peak learning rates: in natural units, and in plain ones
LOW_BITS, LOW_BITS_RATE = 4, 0.02  # below so many bits values have farther to go: in natural units
NEAR = 0.05  # nats of held-out KL, below which the rate falls in proportion
MANY_IMAGES = 10_000  # below which the rate falls with their root
GENTLEST = 0.1  # the least share of the usual rate; docs/experiments.md has all three


@by_option_names
@dataclass(frozen=True)
class TrainConfig:
    train: str = "auto"  # auto | always: where the PTQ student is its teacher's equal already, auto does not train it
    epochs: Optional[float] = None  # passes over the training images; parts are fine. None: training/duration.py chooses
    batch_size: Optional[int] = None  # images a step. None: 64, of large images 32
    units: Optional[str] = (
        None  # natural: every value is learned in its own unit (trainable/units.py); plain. None: sgd plain, adamw natural
    )
    learning_rate: Optional[float] = None  # peak; in quantization steps an update where units are natural. None: RATES
    step_rate: Optional[float] = (
        None  # peak rate of the quantization steps: their relative change in one update. None: as units have it, 1e-3 in plain ones
    )
    schedule: str = "cosine"  # constant | linear | cosine, down to 0 at the end
    warmup: float = 0.2  # share of the steps over which the rate rises from 0
    optimizer: str = "adamw"  # adamw | sgd
    momentum: float = 0.9  # of sgd
    weight_decay: float = 4e-5  # of weights only; biases and steps are left alone
    clip_norm: float = 0.0  # largest norm of the whole gradient; 0 does not clip
    learn_steps: str = "all"  # none | weights | all
    accumulate: int = 1  # batches whose gradients make one update; for large batches in little memory
    ema: float = (
        0.0  # decay of a running mean of the parameters, which is then what is evaluated and kept; 0.999, 0 for none
    )
    patience: int = 0  # evaluations without a better score after which training stops; 0 never
    max_minutes: float = 0.0  # of training and evaluation together; 0 for no limit
    evaluate_every: int = 0  # steps between evaluations; 0: at the end of each epoch
    save_every: int = 200  # steps between checkpoints, where there is a place for them; 0: at evaluations alone
    freeze: tuple[str, ...] = ()  # patterns of parameter names that stay as they are
    on_nonfinite: str = "stop"  # stop | rewind: back to the last good state at half the rate, five times at most
    preflight: bool = True  # check every gradient on a few images first; about two seconds for a small network
    flip: bool = False  # random horizontal flips of the training images
    shift: int = 0  # random shifts by up to so many pixels
    crop: float = 0.0  # random parts of at least this share of the area, resized; 0 is off
    colour: float = 0.0  # strength of random brightness, contrast and saturation; 0 to 1
    mixup: Optional[float] = (
        None  # largest share of another image in each; below 0.5. None: 0.4 where few images are seen often, else 0
    )
    seed: int = 0
    split_seed: Optional[int] = (
        None  # of which images calibrate and are held out; None: seed. One for all, where seeds are compared
    )
    threads: int = 0  # 0 leaves the runtime's own choice
    profile: str = ""  # file for the runtime's profile of the steps, at most a million node times; "" for none

    def __post_init__(self):
        object.__setattr__(self, "freeze", tuple(self.freeze))  # lists come out of JSON
        _check(self.train in ("auto", "always"), f"train is {self.train!r}", "auto | always")
        _check(self.epochs is None or 0 < self.epochs < math.inf, f"epochs is {self.epochs}", "above 0 and finite")
        _check(self.batch_size is None or self.batch_size >= 1, f"batch_size is {self.batch_size}", "1 or more")
        for name, given in (("lr", self.learning_rate), ("step_rate", self.step_rate)):
            least = 0 if name == "step_rate" else math.ulp(0)
            wanted = "0 or more and finite" if name == "step_rate" else "above 0 and finite"
            _check(given is None or least <= given < math.inf, f"{name} is {given}", wanted)
        _check(
            self.schedule in ("constant", "linear", "cosine"), f"schedule is {self.schedule!r}", "constant | linear | cosine"
        )
        _check(0 <= self.warmup < 1, f"warmup is {self.warmup}", "at least 0 and below 1")
        _check(self.optimizer in ("adamw", "sgd"), f"optimizer is {self.optimizer!r}", "adamw | sgd")
        _check(self.units in (None, "natural", "plain"), f"units is {self.units!r}", "natural | plain")
        _check(
            self.optimizer == "adamw" or self.units != "natural",
            f"the optimizer is {self.optimizer} and units are natural",
            "adamw for natural units, or plain ones",
        )
        _check(0 <= self.momentum < 1, f"momentum is {self.momentum}", "at least 0 and below 1")
        _check(0 <= self.weight_decay < math.inf, f"weight_decay is {self.weight_decay}", "0 or more and finite")
        _check(0 <= self.clip_norm < math.inf, f"clip_norm is {self.clip_norm}", "0 or more and finite")
        _check(
            self.learn_steps in ("none", "weights", "all"), f"learn_steps is {self.learn_steps!r}", "none | weights | all"
        )
        for name, most in (("crop", 1), ("colour", 1), ("mixup", 0.5)):
            _check(0 <= (getattr(self, name) or 0) <= most, f"{name} is {getattr(self, name)}", f"0 to {most}")
        _check(self.accumulate >= 1, f"accumulate is {self.accumulate}", "1 or more")
        _check(0 <= self.ema < 1, f"ema is {self.ema}", "at least 0 and below 1")
        _check(self.patience >= 0, f"patience is {self.patience}", "0 or more")
        _check(0 <= self.max_minutes < math.inf, f"max_minutes is {self.max_minutes}", "0 or more and finite")
        _check(self.evaluate_every >= 0, f"evaluate_every is {self.evaluate_every}", "0 or more")
        _check(self.save_every >= 0, f"save_every is {self.save_every}", "0 or more")
        _check(self.on_nonfinite in ("stop", "rewind"), f"on_nonfinite is {self.on_nonfinite!r}", "stop | rewind")
        _check(self.shift >= 0, f"shift is {self.shift}", "0 or more")
        _check(self.seed >= 0, f"seed is {self.seed}", "0 or more")
        _check(self.split_seed is None or self.split_seed >= 0, f"split_seed is {self.split_seed}", "0 or more")
        _check(self.threads >= 0, f"threads is {self.threads}", "0 or more")

    @property
    def natural(self) -> bool:
        """Whether values are learned in units of their own."""
        return self.units == "natural" or (self.units is None and self.optimizer == "adamw")

    def for_student(self, bits: int, kl: float, images: int) -> TrainConfig:
        """The same with a learning rate: the one chosen, else the usual one for so many bits; less of it where the student begins close to
        its teacher, and where images are few: the noise of large updates would undo more than they learn. kl: mean held-out KL of the
        student as it comes, nats. images: that it trains on."""
        if not self.natural or self.learning_rate is not None:
            return replace(self, learning_rate=self.peak_rate)
        usual = LOW_BITS_RATE if bits < LOW_BITS else self.peak_rate
        near = min(1.0, kl / NEAR) if math.isfinite(kl) else 1.0
        share = max(GENTLEST, near * min(1.0, math.sqrt(images / MANY_IMAGES)))
        return replace(self, learning_rate=float(f"{usual * share:.2g}"))

    @property
    def peak_rate(self) -> float:
        """The learning rate, or the usual one."""
        usual = RATES["natural" if self.natural else self.optimizer]
        return usual if self.learning_rate is None else self.learning_rate

    @property
    def peak_step_rate(self) -> float:
        """The rate of quantization steps: in natural units that of all values, unless it was chosen."""
        usual = self.peak_rate if self.natural else 1e-3
        return usual if self.step_rate is None else self.step_rate

    @property
    def held_out_seed(self) -> int:
        return self.seed if self.split_seed is None else self.split_seed
