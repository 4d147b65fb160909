"""TOML files that a person writes: tables become frozen objects, every key and type checked."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_origin, get_type_hints

from harness.errors import HarnessError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Frozen(Protocol):
    """A dataclass whose fields are the keys of a table: text, numbers, lists of text, or ``None`` for nothing."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound=Frozen)


def table_from_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a file.

    Args:
        path: the file.
        what: it should be, for messages, such as "a recipe".

    Raises:
        HarnessError: there is no such file, or it is not TOML.
    """
    if not path.is_file():
        raise HarnessError(f"there is no file {path}; expected {what} in TOML")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HarnessError(f"{path} is not {what} in TOML: {error}") from error


def object_from_table(kind: type[T], table: Mapping[str, Any], what: str, where: str) -> T:
    """An object whose fields are the keys of a table.

    Args:
        kind: a dataclass.
        table: parsed TOML or JSON.
        what: the object is called in messages, such as "recipe".
        where: the table stands, for messages.

    Raises:
        HarnessError: an unknown key (the message names the nearest), a missing one, a value of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    types = get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise unknown(f"{what} key (in {where})", key, fields)
        values[key] = _checked(key, value, types[key], where)
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in values:
            raise HarnessError(f'{where}: a {what} needs {key} = "..."')
    return kind(**values)


def _checked(key: str, value: Any, wanted: Any, where: str) -> Any:
    if get_origin(wanted) is tuple:
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return tuple(value)
        raise HarnessError(f"{where}: {key} must be a list of strings; got {value!r}")
    if float in (wanted, *get_args(wanted)):
        if type(value) in (int, float):
            return float(value)
        raise HarnessError(f"{where}: {key} must be a number; got {value!r}")
    if type(value) is not wanted:
        raise HarnessError(f"{where}: {key} must be of type {wanted.__name__}; got {value!r}")
    return value
