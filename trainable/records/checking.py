"""From what a row holds to a record, or to the reason why it is none.

    {"prompt": "2+2=", "completion": "4"}
    {"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}

Beside these a row may have an `id` (a text or a whole number, once per split) and a
`distance` (a whole number from 0); other columns are passed over and named.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from trainable.records.problems import shown

PLAIN, CHAT = ("prompt", "completion"), ("messages",)
KNOWN_COLUMNS = (*PLAIN, *CHAT, "id", "distance")
ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_TEXT_BYTES = 1_000_000
MAX_DISTANCE = 2**31 - 1

_ROLES_LISTED = ", ".join(ROLES[:-1]) + f" or {ROLES[-1]}"
Kind = Literal["prompt and completion", "messages"]
Message: TypeAlias = dict[str, str]  # role, content


@dataclass(frozen=True, slots=True)
class Record:
    """One sound row, before it is tokenised.

    Args:
        prompt: of a plain row; "" for a chat, whose prompt the tokenizer's template writes.
        completion: the reference; of a chat, what the assistant says last.
        messages: the chat, with that last turn; None for a plain row.
        file: which of its split's files it stands in, from 0.
        row: its number there, from 1.
    """

    prompt: str
    completion: str
    messages: list[Message] | None
    id: str | None
    distance: int | None
    file: int
    row: int

    @property
    def kind(self) -> Kind:
        """Which columns it came from."""
        return "prompt and completion" if self.messages is None else "messages"

    def prompt_key(self) -> int:
        """64 bits that equal prompts share."""
        return _key(self._prompt_text())

    def row_key(self) -> int:
        """64 bits that equal rows share."""
        return _key(f"{self._prompt_text()}\0{self.completion}")

    def _prompt_text(self) -> str:
        if self.messages is None:
            return self.prompt
        return json.dumps([[turn["role"], turn["content"]] for turn in self.messages[:-1]])


def as_record(value: object, file: int, row: int) -> Record | str:
    """The record in a row, or what is wrong with it."""
    if not isinstance(value, Mapping):
        return f"expected a JSON object, got {shown(value)}"
    chat = value.get("messages") is not None
    plain = [name for name in PLAIN if value.get(name) is not None]
    if chat and plain:
        return f"it has messages and {' and '.join(plain)}: keep one of the two"
    wrong = _wrong_extras(value) or (_wrong_messages(value) if chat else _wrong_texts(value))
    if wrong is not None:
        return wrong
    messages = [{k: turn[k] for k in ("role", "content")} for turn in value.get("messages") or ()]
    identifier = value.get("id")
    return Record(
        prompt="" if chat else value["prompt"],
        completion=messages[-1]["content"] if chat else value["completion"],
        messages=messages if chat else None,
        id=None if identifier is None else str(identifier),
        distance=value.get("distance"),
        file=file,
        row=row,
    )


def _wrong_texts(value: Mapping[str, Any]) -> str | None:
    for name in PLAIN:
        if name not in value:
            return f"the column {name} is missing{_meant(value)}"
        wrong = _wrong_text(name, value[name])
        if wrong is not None:
            return wrong
    return None if value["completion"] else "completion is empty: nothing is left to learn"


def _wrong_messages(value: Mapping[str, Any]) -> str | None:
    messages = value["messages"]
    if not isinstance(messages, list):
        return f"messages: expected a list of {{role, content}}, got {shown(messages)}"
    for place, turn in enumerate(messages):
        if not isinstance(turn, Mapping):
            return f"messages.{place}: expected {{role, content}}, got {shown(turn)}"
        for name in ("role", "content"):
            if name not in turn:
                return f"messages.{place}.{name} is missing"
            wrong = _wrong_text(f"messages.{place}.{name}", turn[name])
            if wrong is not None:
                return wrong
        if turn["role"] not in ROLES:
            return f"messages.{place}.role: expected {_ROLES_LISTED}, got {shown(turn['role'])}"
    if len(messages) < 2:
        return "messages: expected at least a question and an answer"
    if messages[-1]["role"] != "assistant":
        return f"messages: the last one is by {shown(messages[-1]['role'])}, expected 'assistant'"
    return None if messages[-1]["content"] else "messages: the last one's content is empty"


def _wrong_text(name: str, value: object) -> str | None:
    if value is None:
        return f"{name} is null"
    if not isinstance(value, str):
        return f"{name}: expected a text, got {shown(value)}"
    try:
        size = len(value) if value.isascii() else len(value.encode("utf-8"))
    except UnicodeEncodeError:
        return f"{name} holds half a surrogate pair, which is no valid Unicode text"
    return (
        f"{name} has {size} bytes, above {MAX_TEXT_BYTES}: shorten it"
        if (size > MAX_TEXT_BYTES)
        else None
    )


def _wrong_extras(value: Mapping[str, Any]) -> str | None:
    identifier, distance = value.get("id"), value.get("distance")
    if identifier is not None and (
        not isinstance(identifier, str | int) or isinstance(identifier, bool)
    ):
        return f"id: expected a text or a whole number, got {shown(identifier)}"
    if isinstance(identifier, str) and (wrong := _wrong_text("id", identifier)):
        return wrong
    if distance is not None and not (
        isinstance(distance, int)
        and not isinstance(distance, bool)
        and 0 <= distance <= MAX_DISTANCE
    ):
        return f"distance: expected a whole number from 0, got {shown(distance)}"
    return None


def _meant(value: Mapping[str, Any]) -> str:
    """The columns that are there instead, as a hint."""
    others = [name for name in value if name not in KNOWN_COLUMNS]
    return f"; there are {', '.join(map(str, others[:5]))}" if others else ""


def _key(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
