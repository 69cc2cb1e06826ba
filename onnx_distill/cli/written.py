"""How a user writes what is no plain number: a shape, an input's value, a size; each read into what it means."""

from __future__ import annotations

import json
import re

import click
import numpy as np


class Shape(click.ParamType):
    """'3x224x224' or '3,224,224' -> (3, 224, 224)."""

    name = "SIZES"

    def convert(self, value, param, ctx):
        sizes = value if isinstance(value, tuple) else tuple(re.split("[x,]", value))
        if not all(str(size).isdecimal() and int(size) > 0 for size in sizes):
            self.fail(f"{value!r} is no shape; wanted the sizes of one image, such as 3x224x224.", param, ctx)
        return tuple(map(int, sizes))


class _Given(tuple):
    """(name, array), and in `given` the text that said so."""

    given: str


class Constant(click.ParamType):
    """'NAME=VALUE' -> (name, array): a number, several with commas between, true or false, or a .npy file."""

    name = "NAME=VALUE"

    def convert(self, value, param, ctx):
        if isinstance(value, _Given):
            return value
        name, _, given = value.rpartition("=")
        if not name:
            self.fail(f"{value!r} has no name; wanted NAME=VALUE, such as keep_prob=1.", param, ctx)
        made = _Given((name, self._array(given, param, ctx)))
        made.given = value
        return made

    def _array(self, given: str, param, ctx) -> np.ndarray:
        try:
            if given.endswith(".npy"):
                return np.load(given, allow_pickle=False)
            numbers = [json.loads(part.strip().lower()) for part in given.split(",")]
            return np.asarray(numbers[0] if len(numbers) == 1 else numbers)
        except (ValueError, OSError) as error:
            self.fail(f"{given!r} cannot be read: {error}; wanted numbers with commas between, or a .npy file.", param, ctx)


class Auto(click.ParamType):
    """'auto' -> None, which lets the program choose; else what `kind` reads."""

    name = "AUTO"

    def __init__(self, kind: type):
        self.kind = click.types.convert_type(kind)
        self.name = f"auto|{self.kind.name}"

    def convert(self, value, param, ctx):
        if value is None or value == "auto":
            return None
        try:
            return self.kind.convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message.rstrip('.')}, nor auto.", param, ctx)


class Size(click.ParamType):
    """'0.6', '60%', '200kB', '1.5MB' or bytes -> a number: bytes, or up to 1 a share."""

    name = "SHARE|BYTES"

    def convert(self, value, param, ctx):
        found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*(%|B|kB|MB)?", str(value).strip())
        if not found:
            self.fail(f"{value!r} is no size; wanted a share such as 0.6 or 60%, or bytes such as 200kB.", param, ctx)
        return float(found[1]) * {None: 1, "%": 0.01, "B": 1, "kB": 1000, "MB": 1_000_000}[found[2]]
