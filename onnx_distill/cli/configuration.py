"""A command's options in a file, and the merged ones written to one: each under its name on the command line."""

from __future__ import annotations

import os
import shlex
from typing import Any, NamedTuple

import click

from onnx_distill.errors import InputError
from onnx_distill.files.settings import read_settings

NOT_SAVED = ("resume", "overwrite", "as_json")  # how a run is called, not what it does


class _Key(NamedTuple):
    """What a name in a file sets; negated: it is the flag's other side, such as per_tensor."""

    parameter: click.Parameter
    negated: bool = False


def defaults_from(path: str | os.PathLike, ctx: click.Context) -> dict[str, Any]:
    """Parameter name -> value of the options in a file, checked as those of the command line are.

    Raises InputError that names the file for an unknown name or a wrong value.
    """
    keys = _keys(ctx.command)
    found = read_settings(path, list(keys))
    return {keys[name].parameter.name: _value(path, name, keys[name], value, ctx) for name, value in found.items()}


def merged(ctx: click.Context) -> dict[str, Any]:
    """Name on the command line -> value, as a file holds it, of every option that the running command has a value for."""
    given = [(parameter, ctx.params.get(parameter.name)) for parameter in ctx.command.params]
    return {
        _name(parameter): _plain(value)
        for parameter, value in given
        if parameter.name not in NOT_SAVED and value not in (None, (), "")
    }


def command_line(ctx: click.Context) -> str:
    """What one would type to do the same: arguments, then each option that is not at its default."""
    words, found = ["onnx-distill", str(ctx.info_name)], _changed(ctx)
    words += [str(ctx.params[parameter.name]) for parameter in found if isinstance(parameter, click.Argument)]
    for option in found:
        words += _typed(option, ctx.params[option.name]) if isinstance(option, click.Option) else []
    return shlex.join(words)


def changed(ctx: click.Context) -> dict[str, Any]:
    """What `merged` gives, of arguments and of options that are not at their defaults."""
    return {_name(parameter): _plain(ctx.params[parameter.name]) for parameter in _changed(ctx)}


def _changed(ctx: click.Context) -> list[click.Parameter]:
    given = [p for p in ctx.command.params if p.name not in NOT_SAVED and ctx.params.get(p.name) not in (None, (), "")]
    return [p for p in given if not isinstance(p, click.Option) or ctx.params[p.name] != _default(p)]


def _default(option: click.Option) -> Any:
    return False if _is_plain_flag(option) else option.default


def _is_plain_flag(option: click.Option) -> bool:
    return option.is_flag and not option.secondary_opts


def _typed(option: click.Option, value: Any) -> list[str]:
    flag = max(option.opts, key=len)
    if option.is_flag:
        return [flag if value else option.secondary_opts[0]]
    parts = value if option.multiple else [value]
    return [word for part in parts for word in (flag, _as_text(part))]


def _as_text(value: Any) -> str:
    plain = _plain(value)
    return ",".join(map(str, plain)) if isinstance(plain, list) else str(plain)


def _keys(command: click.Command) -> dict[str, _Key]:
    """Every name that a file may use: those of the command line, and the parameter's own."""
    known: dict[str, _Key] = {}
    for parameter in command.params:
        if parameter.name in ("config", "help"):
            continue
        for flag in parameter.opts:
            known[_as_key(flag)] = _Key(parameter)
        for flag in parameter.secondary_opts:
            known[_as_key(flag)] = _Key(parameter, negated=True)
    known.update(
        {parameter.name: _Key(parameter) for parameter in command.params if parameter.name not in ("config", "help")}
    )
    return {name: key for name, key in known.items() if len(name) > 1}


def _name(parameter: click.Parameter) -> str:
    return _as_key(next((flag for flag in parameter.opts if flag.startswith("--")), parameter.name))


def _as_key(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _value(path, name: str, key: _Key, value: Any, ctx: click.Context) -> Any:
    parameter = key.parameter
    several = getattr(parameter, "multiple", False) or parameter.nargs == -1
    if isinstance(value, dict):
        raise InputError(f"{path} has {name}: {value!r}; wanted a value, or a list of them.")
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise InputError(f"{path} has {name}: {value!r}; wanted true or false.")
        return value != key.negated
    parts = [str(part) for part in value] if isinstance(value, list) else [str(value)]
    text = parts if several else ",".join(parts)
    try:
        parameter.type_cast_value(ctx, text)
    except click.BadParameter as error:
        raise InputError(f"{path} has {name}: {value!r}; {error.message}") from None
    return text


def _plain(value: Any) -> Any:
    """Values as a file holds them and the option reads them back."""
    if hasattr(value, "given"):
        return value.given
    return [_plain(part) for part in value] if isinstance(value, (tuple, list)) else value
