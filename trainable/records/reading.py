"""Files as rows, each with its number and what it holds, or why it cannot be read.

    train.jsonl     one JSON object per line, UTF-8; the number is the line's, from 1
    train.parquet   one row per row, from 1

JSON is read line by line with Python's parser: pyarrow's guesses types from a first block
and stops at the first line that it dislikes, where a person needs them all with their
numbers. Reading and checking cost about 6 µs a line, less than tokenising it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from trainable.records.problems import shown

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
PARQUET_SUFFIXES = (".parquet", ".pq")
_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_BATCH_ROWS = 1024


class RawRow(NamedTuple):
    """One row of a file.

    Args:
        number: from 1; None where the file as a whole is meant.
        value: what it holds, of whatever type.
        wrong: why it cannot be read; `value` then means nothing.
    """

    number: int | None
    value: Any = None
    wrong: str | None = None


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[RawRow]:
    """All rows of a file.

    Args:
        path: its name tells the format.
        columns: those that are wanted; a Parquet file's others are not read.
    """
    wrong = _unreadable(path)
    if wrong is not None:
        yield RawRow(None, wrong=wrong)
    elif path.suffix.lower() in JSON_SUFFIXES:
        yield from _read_json(path)
    else:
        yield from _read_parquet(path, columns)


def column_names(path: Path) -> list[str]:
    """A Parquet file's columns; none for a JSON file, whose rows have names of their own."""
    if path.suffix.lower() not in PARQUET_SUFFIXES or _unreadable(path) is not None:
        return []
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return []  # reading its rows says why


def digest_or_none(path: Path) -> str | None:
    """The digest of a file's content; None where it cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return None


def file_sha256(path: Path) -> str:
    """The digest of a file's content. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unreadable(path: Path) -> str | None:
    known = ", ".join((*JSON_SUFFIXES, *PARQUET_SUFFIXES))
    if path.suffix.lower() not in (*JSON_SUFFIXES, *PARQUET_SUFFIXES):
        return f"a file of this kind is not read: give one of {known}"
    if path.is_dir():
        return "it is a folder: give a file, or a list of files"
    if not path.exists():
        return "there is no such file: check the path"
    try:
        with path.open("rb"):
            return None
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _read_json(path: Path) -> Iterator[RawRow]:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield from _json_lines(content)


def _json_lines(content: mmap.mmap) -> Iterator[RawRow]:
    if content[:2] in _UTF16_BOMS:
        yield RawRow(None, wrong="it is UTF-16: save it as UTF-8")
        return
    if content[:3] == _BOM:
        content.seek(3)
    empty: list[int] = []  # at the end of a file they are no rows
    number = 0
    while line := content.readline():
        number += 1
        line = line.strip()
        if number == 1 and line == b"[":
            yield RawRow(None, wrong="it is one JSON array: write one object per line, no commas")
            return
        if not line:
            empty.append(number)
            continue
        yield from (RawRow(blank, wrong="the line is empty: remove it") for blank in empty)
        empty.clear()
        yield _json_row(number, line)


def _json_row(number: int, line: bytes) -> RawRow:
    try:
        return RawRow(number, json.loads(line.decode("utf-8"), object_pairs_hook=_once_each))
    except UnicodeDecodeError as error:
        wrong = f"no valid UTF-8 at byte {error.start + 1}: {shown(line[error.start :][:8])}"
    except json.JSONDecodeError as error:
        wrong = f"no valid JSON: {error.msg} at character {error.colno}"
    except _TwiceError as error:
        wrong = f"the key {shown(error.key)} is there twice: keep one of them"
    except (ValueError, RecursionError) as error:  # a number of 5000 digits, endless nesting
        wrong = f"no valid JSON: {error}"
    return RawRow(number, wrong=wrong)


class _TwiceError(ValueError):
    """A JSON object with one key twice: readers differ in which of the two they take."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(next(key for key in keys if keys.count(key) > 1))
    return found


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[RawRow]:
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            wanted = [name for name in columns if name in file.schema_arrow.names]
            if not wanted:
                if file.metadata.num_rows:
                    names = ", ".join(file.schema_arrow.names)
                    yield RawRow(None, wrong=f"it has only the columns {names}; {_expected()}")
                return
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
                yield from _parquet_rows(batch, number)
                number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        yield RawRow(None, wrong=f"no valid Parquet: {first}")


def _parquet_rows(batch: pa.RecordBatch, before: int) -> Iterator[RawRow]:
    try:
        for place, value in enumerate(batch.to_pylist()):
            yield RawRow(before + place + 1, value)
    except UnicodeDecodeError:
        for place in range(batch.num_rows):
            yield _parquet_row(batch.slice(place, 1), before + place + 1)


def _parquet_row(row: pa.RecordBatch, number: int) -> RawRow:
    try:
        return RawRow(number, row.to_pylist()[0])
    except UnicodeDecodeError as error:
        return RawRow(number, wrong=f"no valid UTF-8 at byte {error.start + 1} of a text")


def _expected() -> str:
    return "expected prompt and completion, or messages"
