"""Configuration: frozen dataclasses read from YAML or ``key=value`` words, unknown keys and wrong types refused."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Union

import yaml

from ofa.errors import OfaError, UsageError, shown, unknown_name_message
from ofa.files import MAX_WHOLE, FileFormatError, check_depth

ConfigT = TypeVar("ConfigT")
NamedT = TypeVar("NamedT", bound="Named")


class ConfigError(OfaError, ValueError):
    """A key is unknown or missing, or a value is of the wrong kind."""


class Record:
    """Base of dataclasses that say what is read of a file; other keys of the file are left alone, and not refused."""


def from_mapping(config_type: type[ConfigT], values: Mapping[str, Any], *, where: str) -> ConfigT:
    """Make a configuration dataclass from plain data.

    Args:
        where: What the values come from, for messages: ``recipe demo.yaml``.

    Raises:
        ConfigError: It names the key, the value and what is allowed.
    """
    hints = typing.get_type_hints(config_type)
    known: dict[str, dataclasses.Field[Any]] = {}
    for field in dataclasses.fields(config_type):  # type: ignore[arg-type]
        known |= dict.fromkeys(field.metadata.get(_KEYS, [field.name]), field)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a mapping with keys {', '.join(known)}, not {shown(values)}")
    if issubclass(config_type, Record):
        values = {name: value for name, value in values.items() if name in known}
    for name in values:
        if name not in known:
            raise ConfigError(f"{where}: {unknown_name_message('key', name, known)}")
    for name, field in known.items():
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and name not in values:
            raise ConfigError(f"{where}: key {name!r} is missing")
    converted: dict[str, Any] = {}
    for name, value in values.items():
        field = known[name]
        if _KEYS not in field.metadata:
            converted[name] = _convert(hints[name], value, f"{where}: {name}")
        elif value is not None:
            hint = typing.get_args(hints[field.name])[1]
            converted.setdefault(field.name, {})[name] = _convert(hint, value, f"{where}: {name}")
    try:
        return config_type(**converted)
    except (ConfigError, UsageError) as error:
        raise ConfigError(f"{where}: {error}") from None


def check_record(record_type: type[ConfigT], values: Any, *, where: str, remedy: str) -> ConfigT:
    """:func:`from_mapping` of one of our files.

    Raises:
        FileFormatError: It names the key, the value and what is allowed.
    """
    try:
        return from_mapping(record_type, values, where=where)
    except ConfigError as error:
        raise FileFormatError(f"{error}; {remedy}") from None


_KEYS = "keys"


def keys_of(members: Mapping[str, object]) -> Mapping[str, object]:
    """Metadata of a field of type ``dict[str, ...]`` whose entries are keys among the others, named as in a registry.

    What is ``None`` has no entry; plain data has every name.
    """
    return {_KEYS: members}


class Named:
    """Base of the configurations that are chosen by name: ``{name: sandwich, num_random: 2}``, or just ``sandwich``.

    A subclass is a dataclass and its fields are the settings. Their names are given by :func:`registry`, in a module
    that imports them all: none of them need import it.
    """

    known: ClassVar[Mapping[str, type[Named]]] = {}
    """Name -> class, for all that can stand where this class is asked for."""

    @classmethod
    def kind(cls, name: str) -> type[Named] | None:
        """The class of a name that can stand where this class is asked for."""
        return cls.known.get(name)

    @property
    def name(self) -> str:
        """Its name in the registry; :class:`ConfigError` if it has none."""
        for name, each in self.known.items():
            if each is type(self):
                return name
        raise ConfigError(f"{type(self).__name__} has no name; give it one in the registry of {', '.join(self.known)}")

    def describe(self) -> str:
        """A sentence for reports: what it does with these settings, or else the first paragraph of its docstring."""
        return " ".join((self.__doc__ or self.name).partition("\n\n")[0].split())


def registry(base: type[NamedT], members: dict[str, type[NamedT]]) -> dict[str, type[NamedT]]:
    """Give the kinds of a configuration their names; ``members`` itself, which may grow."""
    base.known = members
    return members


def _named(hint: type[Named], value: Any, where: str) -> Named:
    known = hint.known
    settings = {"name": value} if isinstance(value, str) else value
    if not isinstance(settings, Mapping) or "name" not in settings:
        raise ConfigError(f"{where} must have a name, one of {', '.join(known)}, not {shown(value)}")
    name = settings["name"]
    kind = hint.kind(name) if isinstance(name, str) else None
    if kind is None:
        raise ConfigError(f"{where}: {unknown_name_message('name', name, known)}")
    rest = {key: entry for key, entry in settings.items() if key != "name"}
    return from_mapping(kind, rest, where=f"{where} {name}")


def to_plain(value: Any) -> Any:
    """The inverse of :func:`from_mapping`: dataclasses as mappings, tuples as they are."""
    if isinstance(value, Mapping):
        return {key: to_plain(entry) for key, entry in value.items()}
    if not dataclasses.is_dataclass(value):
        return value
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        entry = getattr(value, field.name)
        names = field.metadata.get(_KEYS)
        plain |= {field.name: to_plain(entry)} if names is None else {name: entry.get(name) for name in names}
    return {"name": value.name, **plain} if isinstance(value, Named) else plain


_WORDS = {float: "a finite number", int: "a whole number", str: "text", bool: "true or false"}


def _convert(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, hint):
        return value  # made already
    if isinstance(hint, type) and issubclass(hint, Named):
        return _named(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, where=where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        *others, last = (option for option in options if option is not type(None))
        for option in others:
            with contextlib.suppress(ConfigError):
                return _convert(option, value, where)
        return _convert(last, value, where)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{where} must be a list, not {shown(value)}")
        return tuple(_convert(typing.get_args(hint)[0], entry, where) for entry in value)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a mapping, not {shown(value)}")
        return {key: _convert(typing.get_args(hint)[1], entry, f"{where}.{key}") for key, entry in value.items()}
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(
                f"{where} cannot be {shown(value)}; choices: {', '.join(map(str, typing.get_args(hint)))}"
            )
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)  # YAML 1.1 reads 1e-3 as text
            if math.isfinite(number):
                return number
    if hint in (int, str, bool) and type(value) is hint and not (hint is int and abs(value) > MAX_WHOLE):
        return value
    raise ConfigError(f"{where} must be {_WORDS.get(hint, hint)}, not {shown(value)}")


MAX_SCALAR = 10_000
MAX_DIGITS = 100


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, nine lines of which stand for more values than fit into any memory, and without tags."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases are not taken; write out what *{event.anchor} stands for")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"tags such as {event.tag} are not taken; leave them out")
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode):
            is_text = node.tag == "tag:yaml.org,2002:str"
            if len(node.value) > (MAX_SCALAR if is_text else MAX_DIGITS) or "\0" in node.value:
                raise yaml.YAMLError(f"{shown(node.value)} is too long, or no text")
            node.value.encode()
        return node


def _parse(text: str) -> Any:
    """Of YAML; :class:`ConfigError` if it is none, nested without end, or has numbers of thousands of digits."""
    try:
        data = yaml.load(text, Loader=_PlainLoader)
        check_depth(data)
        return data
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(" ".join(str(error).split())) from None


def read_yaml(path: Path | str, *, kind: str) -> dict[str, Any]:
    """Read a YAML mapping; :class:`ConfigError` if it is missing or malformed."""
    path = Path(path)
    try:
        data = _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no {kind} at {path}; check the path") from None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise ConfigError(f"{kind} {path} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{kind} {path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        found = "is empty" if data is None else f"holds {shown(data)}"
        raise ConfigError(f"{kind} {path} {found}; it must be a mapping, lines of `key: value`")
    return data


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay ``section.key=value`` words over nested plain data; values are read as YAML."""
    result: dict[str, Any] = copy.deepcopy(values)
    for word in overrides:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise ConfigError(f"override {shown(word)} must look like section.key=value, for example train.epochs=10")
        *sections, name = path.split(".")
        target = result
        for section in sections:
            if isinstance(target.get(section), str):
                target[section] = {"name": target[section]}  # what a bare name is short for
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"override {shown(word)}: {section!r} is a single value, not a section")
        try:
            target[name] = _parse(text)
        except ConfigError:
            raise ConfigError(f"override {shown(word)}: cannot read the value {shown(text)}") from None
    return result
