"""What a setting is: one field of a model, with its help, its range, and what depends on it.

The command line, YAML files, records and the identity of a run or kernel are read off the fields.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Flag, auto
from functools import cache
from pathlib import Path
from textwrap import shorten
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from lpft.errors import InputError, meant_choice, named, nearest


class Decides(Flag):
    """What depends on a setting's value."""

    NOTHING = 0
    RUN = auto()  # the result of a training
    KERNEL = auto()  # the kernels at a training's start
    STATISTICS = auto()  # what is computed from kernels, and beside them
    ROUNDING = auto()  # a kernel's last digits, in which its parts must not differ


Need = Literal[
    "probing",
    "label words",
    "fine-tuning",
    "fine-tuning of the head",
    "contrastive tuning",
    "low-rank factors",
    "prefix",
    "PEFT configuration",
    "task",
    "files",
]
"""A kind of method, or of data."""


@dataclass(frozen=True)
class Setting:
    """A setting as its field declares it."""

    name: str
    owner: "type[Settings]"
    type: Any
    default: Any
    help: str
    limits: Mapping[str, float]  # gt, ge, lt and le of a number
    decides: Decides = Decides.NOTHING
    """What depends on its value (default: as its model says)."""
    fingerprinted: Decides = Decides.NOTHING
    """The part of ``decides`` for which fingerprints of data and weights stand in for its value."""
    commands: tuple[str, ...] = ()
    """The commands that take it (default: as its model says)."""
    needs: Need | None = None
    """The kind of method or data without which it has no effect."""
    solvers: tuple[str, ...] = ()
    """The solvers of kernel regression that take it."""
    fallback: Any = None
    """The default where ``default`` is None, with methods that take the setting."""
    fallback_by_trained: Mapping[str, Any] = field(default_factory=dict)
    """The same by what a method trains, where that makes a difference."""
    fallback_for_minilm: Mapping[str, Any] = field(default_factory=dict)
    """The same for the packaged model, as measured with it: by what is trained, or by method."""
    set_by_model: bool = False
    """Whether the model determines the value where it is None, so that None agrees with any."""
    set_by_data: bool = False
    """The same for the data."""
    placeholder: Any = None
    """A value, such as ``auto``, that training replaces, so that it agrees with any other."""
    in_old_records: Any = None
    """The value that records older than the setting imply, where it is not the default."""
    same_time: bool = False
    """Whether runs that differ in it alone take the same time."""
    choices: tuple[str, ...] | None = None
    """The values there are; those of a ``Literal`` need not be named."""
    form: str | None = None
    """How its value is written on the command line, such as ``NAME=FILE``."""
    separated: bool = False
    """Whether several ``NAME=VALUE`` pairs may have commas between them."""
    words: tuple[str, ...] = ()
    """Words that are valid in place of ``NAME=VALUE`` pairs."""

    def full_help(self) -> str:
        """The text for ``--help``: the solvers that take it, what it is, and its default."""
        text = f"{', '.join(self.solvers)}: {self.help}" if self.solvers else self.help
        default = self.fallback if self.default is None else self.default
        if "(default: " in text or default in (None, {}):
            return text
        if isinstance(default, bool):
            default = "yes" if default else "no"
        elif isinstance(default, tuple):
            default = ",".join(default)
        elif isinstance(default, float):
            default = f"{default:g}"
        return f"{text} (default: {default})"

    def expected(self, *, finite: bool = False, python: bool = False) -> str:
        """The values it may have, in words that follow ``must be``: as options or in Python."""
        if get_origin(self.type) is dict and python:
            name, _, value = (self.form or "").rpartition("|")[2].lower().partition("=")
            literal = "".join(f"{word!r} or " for word in self.words)
            return (
                f"{literal}a dict {{{name}: {value}}}{', with numbers above 0' * _of_numbers(self)}"
            )
        if get_origin(self.type) is dict:
            return f"of the form {self.form}{', with numbers above 0' * _of_numbers(self)}"
        if get_origin(self.type) is tuple:
            return "names, with commas between them"
        number = "a finite number" if finite else "a number"
        kinds = {bool: "true or false", int: "a whole number", float: number, Path: "a path"}
        if {"ge", "le"} <= self.limits.keys():
            bounds = [f"from {self.limits['ge']} to {self.limits['le']}"]
        else:
            words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
            bounds = [f"{words[name]} {limit}" for name, limit in self.limits.items()]
        range_ = " and ".join(bounds).replace(" and of ", " and ")
        return f"{kinds.get(self.type, 'text')} {range_}".rstrip()


def setting(default: Any, help_text: str, **declared: Any) -> Any:
    """The field of a setting: ``declared`` are attributes of :class:`Setting` or its range.

    A default of None depends on something else, which the help says.
    """
    limits = {name: declared.pop(name) for name in ("gt", "ge", "lt", "le") if name in declared}
    extra: dict[str, Any] = {"declared": {"limits": limits, **declared}}
    return Field(default, description=help_text, json_schema_extra=extra, **limits)


class Settings(BaseModel):
    """Settings that belong together, under one heading of ``--help``."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True
    )
    heading: ClassVar[str]
    commands: ClassVar[tuple[str, ...]]
    decides: ClassVar[Decides]

    @classmethod
    def read(cls, values: Mapping[str, Any], *, strict: bool = False) -> Self:
        """The settings by name; what is not named takes its default.

        Values may be text, as on a command line, or typed, as in YAML; with ``strict`` they must
        have the field's type.

        Raises:
            InputError: a name is unknown, a value has a wrong type or is out of range, or settings
                contradict each other.
        """
        try:
            return cls.model_validate(dict(values), strict=strict, context={"python": strict})
        except ValidationError as error:
            raise _in_words(cls, error, python=strict) from None

    @classmethod
    def read_own(cls, values: Mapping[str, Any], *, strict: bool = False) -> Self:
        """As :meth:`read`, ignoring values that belong to other models."""
        own_values = {name: value for name, value in values.items() if name in cls.fields()}
        return cls.read(own_values, strict=strict)

    @classmethod
    @cache
    def fields(cls) -> dict[str, Setting]:
        """The declaration of each setting by name."""
        fields = {}
        for name, declared in cls.model_fields.items():
            kind = _bare(declared.annotation)
            extra: Any = declared.json_schema_extra
            usual = {"commands": cls.commands, "decides": cls.decides}
            if get_origin(kind) is Literal:
                usual["choices"] = get_args(kind)
            fields[name] = Setting(
                name=name,
                owner=cls,
                type=kind,
                default=declared.default,
                help=declared.description or "",
                **(usual | extra["declared"]),
            )
        return fields

    def flat(self) -> dict[str, Any]:
        """All settings by name, ready for JSON."""
        return self.model_dump(mode="json")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, values: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Values in the form that pydantic reads, where it would refuse or misread theirs."""
        fields = cls.fields()
        python = bool((info.context or {}).get("python"))
        return {
            name: _plain_value(fields[name], value, python) if name in fields else value
            for name, value in values.items()
        }


def unknown_setting(name: str, names: Iterable[str]) -> InputError:
    """The error for a setting that does not exist, with the nearest one that does."""
    near = nearest(name, names)
    hint = "see lpft train --help" if near is None else f"did you mean {near}?"
    return InputError(f"unknown setting '{name}': {hint}")


def _bare(kind: Any) -> Any:
    """A type without the None of an optional setting and the checks of an annotated one."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _plain_value(setting: Setting, value: Any, python: bool) -> Any:
    # True would pass for the number 1, and the other way round
    if isinstance(value, bool) != (setting.type is bool) and value is not None:
        raise _wrong_value(setting, value, python)
    if setting.type is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if get_origin(setting.type) is tuple and isinstance(value, str | list | tuple):
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(part.strip() if isinstance(part, str) else part for part in parts)
    if get_origin(setting.type) is dict and isinstance(value, str | list):
        parts = [value] if isinstance(value, str) else value
        if setting.separated:
            parts = [part.strip() for item in parts for part in str(item).split(",")]
        if len(parts) == 1 and parts[0] in setting.words:
            return parts[0]
        pairs = [_pair(setting, part) for part in parts]
        for part, pair in zip(parts, pairs, strict=True):
            if pair is None:
                raise _wrong_value(setting, value if python else part, python)
        return _pairs(setting, [pair for pair in pairs if pair is not None])
    if get_origin(setting.type) is dict and isinstance(value, Mapping):
        return _pairs(setting, [(_name(key), _python(item)) for key, item in value.items()])
    return value


def _of_numbers(setting: Setting) -> bool:
    return _bare(get_args(setting.type)[1]) is float


def _pair(setting: Setting, text: Any) -> tuple[str, str] | None:
    """The two parts of ``NAME=VALUE``; a class may have a ``=`` in its name, a number has none.

    None where there are no two.
    """
    divide = str.rpartition if _of_numbers(setting) else str.partition
    name, _, value = divide(str(text), "=")
    return (name, value) if name and value else None


def _name(key: Any) -> str:
    """A key of a Python program's mapping, which may be a number, as text: 1, 1.0 and "1" agree."""
    key = _python(key)
    return str(int(key)) if isinstance(key, float) and key.is_integer() else str(key)


def _python(value: Any) -> Any:
    """A NumPy number as a Python number."""
    return value.item() if hasattr(value, "item") else value


def _pairs(setting: Setting, parts: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Names with their values as a mapping."""
    pairs: dict[str, Any] = {}
    for name, value in parts:
        if name in pairs:
            raise InputError(
                f"{named(setting.name)} names '{name}' twice: give each a name of its own"
            )
        pairs[name] = value
    return pairs


def _wrong_value(setting: Setting, value: Any, python: bool = False) -> InputError:
    if value is None and not python:  # of a line in YAML without a value
        choices = setting.choices
        expected = setting.expected() if choices is None else f"one of {', '.join(choices)}"
        return InputError(
            f"{named(setting.name)} is empty: expected {expected}; leave it out for the default"
        )
    shown = shorten(repr(value), 80, placeholder=" ...")  # of a table or model the beginning
    return InputError(f"{named(setting.name)} {shown} must be {setting.expected(python=python)}")


def _in_words(owner: type[Settings], error: ValidationError, *, python: bool) -> InputError:
    """The first of pydantic's errors as an InputError."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    name, kind, value = str(first["loc"][0]), first["type"], first["input"]
    if kind == "extra_forbidden":
        return unknown_setting(name, owner.fields())
    setting = owner.fields()[name]
    if kind == "literal_error" and value is not None:
        is_list = get_origin(setting.type) is tuple
        choices = get_args(get_args(setting.type)[0]) if is_list else setting.choices
        return InputError(
            f"{named(name)} {value} is unknown{meant_choice(str(value), choices or ())}: expected "
            f"{'some' if is_list else 'one'} of {', '.join(choices or ())}"
            f"{', or none' if is_list else ''}"
        )
    if kind == "finite_number" or kind.startswith(("greater_than", "less_than")):
        expected = setting.expected(finite=kind == "finite_number", python=python)
        return InputError(f"{named(name)} {value} must be {expected}")
    return _wrong_value(setting, value, python)
