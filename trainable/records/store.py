"""The tables of data files: from the cache, or read, checked, tokenised and put there.

    KEY-DIGEST.arrow    KEY    of the files' contents, the tokenizer and the format
                        DIGEST of the file itself, by which damage shows

So nothing is tokenised twice, a changed file is another entry, a damaged entry is made again,
and processes that make the same entry at once replace each other's by an equal one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from trainable.files import flush, naming_full_disk
from trainable.fingerprint import tokenizer_hash
from trainable.records.checking import KNOWN_COLUMNS, Record, as_record
from trainable.records.encoding import EncodedRecord, RecordEncoder
from trainable.records.problems import RowProblems
from trainable.records.reading import column_names, file_sha256, read_rows
from trainable.records.table import (
    FORMAT_VERSION,
    RecordTable,
    batched,
    record_batch,
    write_table,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SUFFIX = ".arrow"
NOTED_ROWS = 5  # of some oddity, by number


class RecordStore:
    """Makes tables with one tokenizer and keeps them in a folder.

    Args:
        tokenizer: the base model's.
        folder: the cache; None keeps the tables in memory alone.
        add_special_tokens: see `RecordEncoder`.

    Raises:
        TaskError: if the tokenizer cannot encode records.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        folder: Path | None,
        *,
        add_special_tokens: bool = True,
    ) -> None:
        # Made now, because it says what the tokenizer lacks before any file is read.
        self._encoder = partial(RecordEncoder, tokenizer, add_special_tokens=add_special_tokens)
        self._encoder()
        self._folder = folder
        self._identity = [
            add_special_tokens,
            FORMAT_VERSION,
            tokenizer_hash(tokenizer),
            tokenizer.chat_template,
            tokenizer.eos_token_id,
        ]

    def table(self, digests: Mapping[str, str | None], problems: RowProblems) -> RecordTable | None:
        """The rows of some files as one table; None where there are problems, which are noted.

        Args:
            digests: path to SHA-256 of the content, or None for a file that cannot be read.
            problems: what is wrong, of these files and of others.
        """
        names, files = list(digests), [Path(name) for name in digests]
        known = [digest for digest in digests.values() if digest is not None]
        key = self._key(known) if len(known) == len(files) else ""
        kept = self._kept(key, names)
        if kept is not None:
            return kept
        if self._folder is None or not key:  # reading says which file it is, and why
            return self._in_memory(files, names, problems)
        self._make(self._folder, key, files, problems)
        return None if problems.count else self._kept(key, names)

    def _in_memory(
        self, files: Sequence[Path], names: Sequence[str], problems: RowProblems
    ) -> RecordTable | None:
        sink = pa.BufferOutputStream()
        self._write(sink, files, problems)
        if problems.count:
            return None
        return RecordTable(pa.BufferReader(sink.getvalue()), names)

    def _make(self, folder: Path, key: str, files: Sequence[Path], problems: RowProblems) -> None:
        """Write an entry; it appears whole or not at all, and where not, no new folder stays."""
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(prefix=".making.", dir=folder)
        os.close(number)
        scratch = Path(name)
        try:
            with naming_full_disk(folder), pa.OSFile(name, "wb") as sink:
                self._write(sink, files, problems)
            if not problems.count:
                digest = file_sha256(scratch)
                scratch.chmod(0o644)  # as any file; a temporary one is its maker's alone
                flush(scratch)
                scratch.replace(folder / f"{key}-{digest}{SUFFIX}")
                flush(folder)
                made = []
        finally:
            scratch.unlink(missing_ok=True)
            for path in made:
                with suppress(OSError):  # somebody else has put something there
                    path.rmdir()

    def _write(self, sink: pa.NativeFile, files: Sequence[Path], problems: RowProblems) -> None:
        reader, encoder = _RecordReader(files, problems), self._encoder()
        seams = {False: 0, True: 0}  # whether prompt and completion as one text give other ids
        unknown = RowNumbers()

        def batches() -> Iterator[pa.RecordBatch]:
            for records in batched(reader.records()):
                good = _good(records, encoder.encode(records), files, problems)
                for one in good:
                    if one.seam_differs is not None:
                        seams[one.seam_differs] += 1
                for record, one in zip(records, good, strict=False):
                    if one.unknown:  # (where a row is bad, nobody will read this)
                        unknown.add(record.row)
                if not problems.count:  # otherwise nobody will read it
                    yield record_batch(records, good)

        def facts() -> dict[str, object]:
            ignored = sorted(reader.ignored)
            return {
                "kind": reader.kind,
                "seams_tried": sum(seams.values()),
                "seams_differ": seams[True],
                "ignored": ignored,
                "unknown": unknown.count,
                "unknown_rows": unknown.first,
            }

        write_table(sink, batches(), facts)

    def _kept(self, key: str, names: Sequence[str]) -> RecordTable | None:
        """A sound entry of the cache, if there is one; damaged ones are removed."""
        if self._folder is None or not key:
            return None
        for path in sorted(self._folder.glob(f"{key}-*{SUFFIX}")):
            try:
                if file_sha256(path) == path.stem.removeprefix(f"{key}-"):
                    return RecordTable(pa.memory_map(str(path)), names)
            except FileNotFoundError:
                continue  # another process has just removed it
            except pa.ArrowInvalid as error:
                logger.warning("%s cannot be read: %s", path, error)
            logger.warning("%s is damaged: it is made again", path)
            path.unlink(missing_ok=True)
        return None

    def _key(self, digests: Sequence[str]) -> str:
        text = json.dumps([*self._identity, list(digests)])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class _RecordReader:
    """Reads the records of a split's files and notes what is wrong with them."""

    def __init__(self, files: Sequence[Path], problems: RowProblems) -> None:
        self.ignored: set[str] = set()
        self.kind: str | None = None
        self._files = files
        self._problems = problems
        self._ids: dict[str, tuple[int, int]] = {}

    def records(self) -> Iterator[Record]:
        """All sound records."""
        for number, path in enumerate(self._files):
            self.ignored |= set(column_names(path)) - set(KNOWN_COLUMNS)
            yield from self._of_file(number, path)

    def _of_file(self, number: int, path: Path) -> Iterator[Record]:
        rows = 0
        for raw in read_rows(path, KNOWN_COLUMNS):
            rows += 1
            if raw.wrong is not None or raw.number is None:
                self._problems.add(str(path), raw.number, raw.wrong or "it cannot be read")
                continue
            found = as_record(raw.value, number, raw.number)
            if isinstance(found, Record):
                found = self._fits(found)
            if isinstance(found, Record):
                self.ignored |= raw.value.keys() - set(KNOWN_COLUMNS)
                yield found
            else:
                self._problems.add(str(path), raw.number, found)
        if not rows:
            self._problems.add(str(path), None, "it has no rows")

    def _fits(self, record: Record) -> Record | str:
        """The record, or why it does not go with those before it."""
        if self.kind is None:
            self.kind = record.kind
        if record.kind != self.kind:
            return f"it has {record.kind}, but the rows before have {self.kind}: keep to one"
        if record.id is not None:
            first = self._ids.setdefault(record.id, (record.file, record.row))
            if first != (record.file, record.row):
                where = f"{self._files[first[0]]} row {first[1]}"
                return f"id {record.id!r} is there twice, first in {where}"
        return record


@dataclass
class RowNumbers:
    """The first rows of some kind, and how many there are."""

    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, number: int) -> None:
        """Note a row's number in its file."""
        self.count += 1
        if len(self.first) < NOTED_ROWS:
            self.first.append(number)


def _good(
    records: Sequence[Record],
    encoded: Sequence[EncodedRecord | str],
    files: Sequence[Path],
    problems: RowProblems,
) -> list[EncodedRecord]:
    good = []
    for record, one in zip(records, encoded, strict=True):
        if isinstance(one, EncodedRecord):
            good.append(one)
        else:
            problems.add(str(files[record.file]), record.row, one)
    return good
