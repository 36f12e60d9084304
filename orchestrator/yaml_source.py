"""YAML read as data alone, with the line of every value.

    budget: {trials: 40}        data   {"budget": {"trials": 40}}
                                lines  ("budget",): 1, ("budget", "trials"): 1

Read from the parser's events: tags, anchors and duplicate keys are refused where they
stand, nothing is constructed but plain values, and the depth is bounded. Scalars follow
the YAML 1.2 core schema (section 10.3.2), so that `no` and `2026-01-01` are texts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from orchestrator.errors import ConfigError
from search_spaces.errors import Problem, shown

Location: TypeAlias = tuple[str | int, ...]

MAX_BYTES = 1_000_000
_MAX_DEPTH = 50
_MAX_DIGITS = 400  # more is no number that anything here can use
_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {"": None, "~": None, "null": None, "Null": None, "NULL": None} | {
    word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")
}


@dataclass
class YamlSource:
    """What a text holds, and what is refused in it.

    Args:
        data: plain data; a refused part holds its best reading, an alias None.
        lines: location to line, from 1.
        problems: duplicate keys, tags, anchors and aliases.
        unread: locations whose value could not be read at all.
    """

    data: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unread: set[Location] = field(default_factory=set)


def read_yaml(path: Path) -> YamlSource:
    """Read a file of at most 1 MB in UTF-8.

    Raises:
        ConfigError: of one line, where the file or its syntax cannot be read.
    """
    return parse_yaml(_text(path), str(path))


def parse_yaml(text: str, source: str) -> YamlSource:
    """Read one YAML document; an empty one is None.

    Args:
        text: the document.
        source: its name in messages.

    Raises:
        ConfigError: of one line, for broken syntax, several documents or endless nesting.
    """
    reader = _Reader(source)
    try:
        reader.read(YAML(typ="safe", pure=True).parse(text))
    except ConfigError:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        wrong = " ".join(part for part in (error.context, error.problem) if part)
        remedy = "check the indentation and the quotes there"
        raise refusal(source, f"no valid YAML: {wrong}", remedy, where) from None
    except (YAMLError, ValueError) as error:
        wrong = f"no valid YAML: {str(error).splitlines()[0]}"
        raise refusal(source, wrong, "write plain YAML in UTF-8") from None
    return reader.found


def dump_yaml(data: Any) -> str:
    """Plain data as YAML text that `parse_yaml` reads back unchanged."""
    yaml = YAML()
    yaml.width = 10_000
    yaml.representer.ignore_aliases = lambda _: True
    stream = io.StringIO()
    yaml.dump(_quoted(data), stream)
    return stream.getvalue()


def resolve_scalar(text: str) -> bool | int | float | str | None:
    """The value of an unquoted scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _MAX_DIGITS:
        if _INT.fullmatch(text):
            return int(text)
        if _BASED_INT.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _SPECIAL_FLOAT.fullmatch(text):
            return float(text.replace(".", ""))
    return text


def refusal(source: str, wrong: str, remedy: str, where: str = "") -> ConfigError:
    """A ConfigError of one line about the source as a whole."""
    return ConfigError([Problem(path="", wrong=wrong, remedy=remedy, where=where)], source)


class _Reader:
    """Builds data from parser events, one document, depth first."""

    def __init__(self, source: str) -> None:
        self.found = YamlSource()
        self._source = source
        self._events: Iterator[Event] = iter(())

    def read(self, events: Iterator[Event]) -> None:
        self._events = events
        documents = 0
        for event in events:
            match event:
                case DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        wrong, remedy = "it holds several documents", "keep one, without `---`"
                        raise refusal(self._source, wrong, remedy, _line(event))
                case StreamStartEvent() | StreamEndEvent() | DocumentEndEvent():
                    pass
                case _:
                    self.found.data = self._value(event, ())

    def _value(self, event: Event, location: Location) -> Any:
        if len(location) > _MAX_DEPTH:
            wrong = f"it is nested deeper than {_MAX_DEPTH} levels"
            raise refusal(self._source, wrong, "write a flatter file", _line(event))
        self.found.lines.setdefault(location, event.start_mark.line + 1)
        self._refuse_references(event, location)
        match event:
            case ScalarEvent(value=text):
                return text if event.style else resolve_scalar(text)
            case SequenceStartEvent():
                return self._sequence(location)
            case MappingStartEvent():
                return self._mapping(location)
        return None

    def _sequence(self, location: Location) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            items.append(self._value(event, (*location, len(items))))
        return items

    def _mapping(self, location: Location) -> dict[str, Any]:
        items: dict[str, Any] = {}
        first: dict[str, int] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            key = self._key(event, location)
            spot = (*location, key)
            if key in items:
                wrong = f"the key is there twice, first on line {first[key]}"
                self._refuse(event, spot, wrong, "keep one of them")
                self._value(next(self._events), spot)  # its own problems count, it does not
            else:
                first[key] = event.start_mark.line + 1
                self.found.lines.setdefault(spot, first[key])
                items[key] = self._value(next(self._events), spot)
        return items

    def _key(self, event: Event, location: Location) -> str:
        if isinstance(event, ScalarEvent):
            self._refuse_references(event, (*location, event.value))
            return str(event.value)
        self._refuse(event, location, "a key must be a plain text", "write `key: value`")
        return str(self._value(event, (*location, "?")))

    def _refuse_references(self, event: Event, location: Location) -> None:
        tag = getattr(event, "ctag", None)
        if tag is not None and str(tag) != "!":
            remedy = "write the plain value"
            self._refuse(event, location, f"the tag {tag} is not read", remedy)
        anchor = getattr(event, "anchor", None)
        if isinstance(event, AliasEvent):
            self.found.unread.add(location)
            self._refuse(event, location, f"the alias *{anchor} is not read", "repeat the value")
        elif anchor is not None:
            remedy = "remove it and repeat the value where it is needed"
            self._refuse(event, location, f"the anchor &{anchor} is not read", remedy)

    def _refuse(self, event: Event, location: Location, wrong: str, remedy: str) -> None:
        self.found.problems.append(
            Problem(
                path=".".join(map(str, location)),
                wrong=wrong,
                remedy=remedy,
                where=_line(event),
                location=location,
            )
        )


def _text(path: Path) -> str:
    source = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        remedy = "check the path; the README shows a search file to start from"
        raise refusal(source, "there is no such file", remedy) from None
    except IsADirectoryError:
        raise refusal(source, "it is a folder", "give the search file in it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise refusal(source, f"it cannot be read: {reason}", "check the path") from None
    if len(raw) > MAX_BYTES:
        wrong = f"it is larger than {MAX_BYTES} bytes"
        raise refusal(source, wrong, "a search file takes a few hundred; check the path")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = f"it is no UTF-8 text: {shown(raw[error.start : error.start + 1])}"
        raise refusal(source, wrong, "save it as UTF-8", f"byte {error.start}") from None


def _line(event: Event) -> str:
    return f"line {event.start_mark.line + 1}, column {event.start_mark.column + 1}"


def _quoted(data: Any) -> Any:
    """Texts that would read as something else, in quotes; ruamel knows other such texts."""
    if isinstance(data, dict):
        return {key: _quoted(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_quoted(value) for value in data]
    if isinstance(data, str) and not isinstance(resolve_scalar(data), str):
        return DoubleQuotedScalarString(data)
    return data
