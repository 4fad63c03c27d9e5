"""Validated settings from files and command lines; an error names the key, the value and the remedy.

A table maps names to classes. Tables are read when values are validated, not when this module is imported, so
that entries which a user adds, as by `NETWORKS["Mine"] = Mine`, are valid like all others.
"""

import contextlib
import difflib
import functools
import inspect
import reprlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    create_model,
    with_config,
)
from pydantic_core import PydanticKnownError
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from refusion.errors import RecipeError

MAX_BLOCKS = 1024
MAX_MODULES = 16 * MAX_BLOCKS
"""Most modules in a network or codec, so that a forged count of blocks, as `middle`, takes no minutes."""
MAX_SIZE = 65536
"""Largest size in a network, codec or process, so that a forged file cannot exhaust time or memory."""


class Settings(BaseModel):
    """Base of all settings: frozen, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Settings)


def named(table: Mapping[str, object]) -> Any:
    """Return the type of a setting whose value is a name in a table."""

    def check(name: str) -> str:
        if name not in table:
            raise PydanticKnownError("literal_error", {"expected": _either(table)})
        return name

    return Annotated[str, AfterValidator(check)]


def component(table: Mapping[str, type]) -> Any:
    """Return the type of a setting that chooses a class of a table by `name`, with its arguments.

    The value of a dataclass is an instance, that of another class its arguments, see `settings_of`.
    """
    _TABLES.append(table)

    def validate(value: object) -> object:
        if not isinstance(value, Mapping):
            if isinstance(value, (Settings, *(kind for kind in table.values() if is_dataclass(kind)))):
                return value
            raise PydanticKnownError("dict_type")
        if (name := value.get("name")) is None:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "name"})
        if not isinstance(name, str) or name not in table:
            context = {"discriminator": "name", "tag": str(name), "expected_tags": _either(table)}
            raise PydanticKnownError("union_tag_invalid", context)
        return _adapter(table[name]).validate_python(dict(value))

    def serialize(value: Any) -> object:
        return value.model_dump(mode="json") if isinstance(value, Settings) else asdict(value)

    return Annotated[Any, PlainValidator(validate), PlainSerializer(serialize)]


_TABLES: list[Mapping[str, type]] = []
DERIVED = ("channels", "map_channels")
"""Arguments of networks that are no settings: the codec determines them."""


@functools.cache
def _adapter(cls: type) -> Any:
    return TypeAdapter(with_config(Settings.model_config)(cls) if is_dataclass(cls) else settings_of(cls))


@functools.cache
def settings_of(cls: type) -> type[Settings]:
    """Return the arguments of a class as a type of settings, but `DERIVED` ones."""
    fields: dict[str, Any] = {"name": (str, ...)}
    for name, parameter in _arguments(cls).items():
        kind = tuple[int, ...] if parameter.annotation == Sequence[int] else parameter.annotation
        fields[name] = (kind, ... if parameter.default is parameter.empty else parameter.default)
    return create_model(cls.__name__, __base__=Settings, **fields)


def _arguments(cls: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class that are settings; one without any inherits `*args, **kwargs`."""
    every = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {k: p for k, p in every.items() if k not in ("self", *DERIVED) and p.kind not in several}


def build(table: Mapping[str, Any], settings: Settings, **derived: Any) -> Any:
    """Build an instance of the class of a table that settings name.

    Args:
        table: classes by name.
        settings: name and arguments, see `component`.
        derived: arguments that are not settings.

    Raises:
        ValueError: a size is too large, or the class refuses an argument.
    """
    values = settings.model_dump(exclude={"name"})
    flat = [n for v in values.values() for n in (v if isinstance(v, tuple) else (v,))]
    if too_large := [n for n in flat if isinstance(n, int | float) and n > MAX_SIZE]:
        raise ValueError(f"a size of {max(too_large)} is above {MAX_SIZE}")
    if long := [key for key, v in values.items() if isinstance(v, tuple) and sum(v) > MAX_BLOCKS]:
        raise ValueError(f"{long[0]} sums to more than {MAX_BLOCKS}")
    with _few_modules():
        return table[settings.model_dump()["name"]](**values, **derived)


@contextlib.contextmanager
def _few_modules() -> Iterator[None]:
    """Raise ValueError where the block puts more than `MAX_MODULES` modules into others."""
    left, thread = MAX_MODULES, threading.get_ident()

    def count(module: nn.Module, name: str, submodule: nn.Module | None) -> None:
        nonlocal left
        left -= threading.get_ident() == thread
        if left < 0:
            raise ValueError(f"it has more than {MAX_MODULES} layers: give fewer blocks")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def validated(kind: type[S], values: Mapping[str, Any], source: str) -> S:
    """Return settings of a kind from nested values.

    Raises:
        RecipeError: a key or value is wrong; the message has `source`, the key, the value and the remedy.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        clauses = (_explain(kind, clause) for clause in error.errors())
        raise RecipeError(f"{source}: {'; '.join(clauses)}") from None


def _explain(kind: type[Settings], error: Any) -> str:
    """Return one clause for one error of pydantic: the key, its value and what was expected."""
    path = [str(part) for part in error["loc"]]
    key = ".".join(path)
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {key}{_suggest(path, kind)}"
    if error["type"] == "missing":
        return f"{key} is missing"
    if error["type"] == "union_tag_not_found":
        return f"{key}.name is missing"
    if error["type"] == "union_tag_invalid":
        tag, expected = error["ctx"]["tag"], error["ctx"]["expected_tags"]
        return f"{key}.name is {reprlib.repr(tag)}: it should be {expected}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
    if error["type"] == "value_error" and isinstance(error["input"], Mapping):  # it tells which of its values
        return f"{key}: {message}" if key else message
    return f"{key} is {reprlib.repr(error['input'])}: {message}" if key else message


def _suggest(path: Sequence[str], kind: type[Settings]) -> str:
    """Return ", did you mean X?", with the whole path where that key stands here, or at one place only."""
    keys = _keys(kind)
    near = difflib.get_close_matches(path[-1], keys, 1)
    if not near:
        return ""
    places = keys[near[0]]
    here = ".".join([*path[:-1], near[0]])
    meant = here if here in places else places.pop() if len(places) == 1 else near[0]
    return f", did you mean {meant}?" if meant != path[-1] else ""


def _keys(kind: Any, prefix: str = "") -> dict[str, set[str]]:
    """Return every key at any level and the paths where it stands; components tell only its name."""
    keys: dict[str, set[str]] = {}
    for table in _TABLES:
        for cls in table.values():
            for name in _arguments(cls):
                keys.setdefault(name, set()).add(name)
    for name, field in kind.model_fields.items():
        keys.setdefault(name, set()).add(prefix + name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            for key, places in _keys(inner, f"{prefix}{name}.").items():
                keys.setdefault(key, set()).update(places)
        elif isinstance(inner, type) and is_dataclass(inner):
            for key in inner.__dataclass_fields__:
                keys.setdefault(key, set()).add(f"{prefix}{name}.{key}")
    return keys


def _either(table: Mapping[str, object]) -> str:
    """Return the names of a table as "'a', 'b' or 'c'"."""
    *most, last = map(repr, table)
    return f"{', '.join(most)} or {last}" if most else last
