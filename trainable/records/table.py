"""Encoded records as an Arrow file, and rows read from it when they are asked for.

    ids                 list of int32, query and response
    query_length        int32
    distance            int32, null where the data gives none
    file, row, id       where the row stands, and what it is called
    prompt, completion  its texts
    prompt_key, row_key 64 bits that equal prompts, equal rows share

The file is memory-mapped: a million rows cost address space and page cache, no Python
objects. Every batch but the last has `BATCH_ROWS` rows, so that a row's place tells its batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trainable.data import EncodedRow, Example, Ints, LazyRows
from trainable.records.checking import Kind, Record
from trainable.records.encoding import EncodedRecord

BATCH_ROWS = 1024
FORMAT_VERSION = 2  # another one for other columns, or another way to encode
_FACTS = b"latentune"  # the schema's metadata key

_SCHEMA = pa.schema(
    [
        ("ids", pa.large_list(pa.field("item", pa.int32(), nullable=False))),
        ("query_length", pa.int32()),
        ("distance", pa.int32()),
        ("file", pa.int32()),
        ("row", pa.int64()),
        ("id", pa.large_string()),
        ("prompt", pa.large_string()),
        ("completion", pa.large_string()),
        ("prompt_key", pa.uint64()),
        ("row_key", pa.uint64()),
    ]
)

Keys = npt.NDArray[np.uint64]


def record_batch(records: Sequence[Record], encoded: Sequence[EncodedRecord]) -> pa.RecordBatch:
    """Records and their ids as columns."""
    offsets = np.concatenate([[0], np.cumsum([len(one.ids) for one in encoded])])
    flat = chain.from_iterable(one.ids for one in encoded)
    values = np.fromiter(flat, np.int32, count=int(offsets[-1]))
    ids = pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), pa.array(values), type=_SCHEMA.field("ids").type
    )
    columns: dict[str, Iterable[object]] = {
        "query_length": [one.query_length for one in encoded],
        "distance": [record.distance for record in records],
        "file": [record.file for record in records],
        "row": [record.row for record in records],
        "id": [record.id for record in records],
        "prompt": [one.prompt for one in encoded],
        "completion": [record.completion for record in records],
        "prompt_key": [record.prompt_key() for record in records],
        "row_key": [record.row_key() for record in records],
    }
    arrays = [pa.array(values, _SCHEMA.field(name).type) for name, values in columns.items()]
    return pa.record_batch([ids, *arrays], schema=_SCHEMA)


def write_table(
    sink: pa.NativeFile, batches: Iterable[pa.RecordBatch], facts: Callable[[], dict[str, object]]
) -> None:
    """Write an Arrow IPC file.

    Args:
        facts: asked when all batches are written; small plain data that is kept with them.
    """
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
        note = pa.record_batch([pa.array([None], field.type) for field in _SCHEMA], schema=_SCHEMA)
        # The schema is written first; what is known only at the end goes with an empty last batch.
        writer.write_batch(note.slice(0, 0), custom_metadata={_FACTS: json.dumps(facts())})


class RecordTable:
    """An Arrow file of encoded records.

    Args:
        content: the file, memory-mapped or in memory.
        files: the names of the data files, for messages.

    Raises:
        pa.ArrowInvalid: if it is no such file.
    """

    def __init__(self, content: pa.NativeFile, files: Sequence[str]) -> None:
        self.files = tuple(files)
        reader = pa.ipc.open_file(content)
        if reader.schema != _SCHEMA or not reader.num_record_batches:
            raise pa.ArrowInvalid("other columns than this version writes")
        last = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        self.facts: dict[str, object] = json.loads(last.custom_metadata[_FACTS])
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches - 1)]
        self._ids = [_list_parts(batch.column("ids")) for batch in self._batches]

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self._batches)

    def ids(self, place: int) -> tuple[Ints, int]:
        """A row's ids and q."""
        number, line = divmod(place, BATCH_ROWS)
        offsets, values = self._ids[number]
        query_length = self._batches[number].column("query_length")[line].as_py()
        return values[offsets[line] : offsets[line + 1]].astype(np.int64), int(query_length)

    def texts(self, place: int) -> tuple[str, str]:
        """A row's prompt and completion."""
        number, line = divmod(place, BATCH_ROWS)
        batch = self._batches[number]
        return batch.column("prompt")[line].as_py(), batch.column("completion")[line].as_py()

    def origin(self, place: int) -> tuple[str, int]:
        """The file that a row stands in, and its number there."""
        number, line = divmod(place, BATCH_ROWS)
        batch = self._batches[number]
        return self.files[batch.column("file")[line].as_py()], int(
            batch.column("row")[line].as_py()
        )

    def identifier(self, place: int) -> str | None:
        """A row's id."""
        number, line = divmod(place, BATCH_ROWS)
        found: str | None = self._batches[number].column("id")[line].as_py()
        return found

    @property
    def kind(self) -> Kind:
        """Which columns all rows came from."""
        kind: Kind = self.facts["kind"]  # type: ignore[assignment]
        return kind

    @cached_property
    def lengths_N(self) -> Ints:
        """[N], the tokens of each row."""
        return np.concatenate([np.diff(offsets) for offsets, _ in self._ids]).astype(np.int64)

    @cached_property
    def query_lengths_N(self) -> Ints:
        """[N], q of each row."""
        return self._column("query_length").astype(np.int64)

    @cached_property
    def prompt_keys_N(self) -> Keys:
        """[N], 64 bits that equal prompts share."""
        return self._column("prompt_key").astype(np.uint64, copy=False)

    @cached_property
    def row_keys_N(self) -> Keys:
        """[N], 64 bits that equal rows share."""
        return self._column("row_key").astype(np.uint64, copy=False)

    @cached_property
    def distances_N(self) -> Ints:
        """[N], the data's own distances; -1 where it gives none."""
        filled = [pc.fill_null(batch.column("distance"), -1) for batch in self._batches]
        return np.concatenate([array.to_numpy() for array in filled]).astype(np.int64)

    def characters_N(self, column: str) -> Ints:
        """[N], the characters of a text column."""
        lengths = [pc.utf8_length(batch.column(column)) for batch in self._batches]
        return np.concatenate([array.to_numpy() for array in lengths]).astype(np.int64)

    def _column(self, name: str) -> npt.NDArray[Any]:
        return np.concatenate([batch.column(name).to_numpy() for batch in self._batches])


@dataclass(frozen=True)
class TableSplit:
    """The rows of a table that make a split.

    Args:
        places_N: where they stand in the table.
        distances_N: how far out each lies.
    """

    table: RecordTable
    places_N: Ints
    distances_N: Ints

    def __len__(self) -> int:
        return len(self.places_N)

    def rows(self) -> Sequence[EncodedRow]:
        """The rows as ids."""
        return LazyRows(self._row, np.arange(len(self)))

    def examples(self) -> Sequence[Example]:
        """The rows as texts."""
        return LazyRows(self._example, np.arange(len(self)))

    def _row(self, number: int) -> EncodedRow:
        ids, query_length = self.table.ids(int(self.places_N[number]))
        return EncodedRow(ids, query_length, int(self.distances_N[number]))

    def _example(self, number: int) -> Example:
        place = int(self.places_N[number])
        prompt, completion = self.table.texts(place)
        file, row = self.table.origin(place)
        distance = int(self.distances_N[number])
        return Example(prompt, completion, distance=distance, origin=f"{file} row {row}")


def _list_parts(column: pa.LargeListArray) -> tuple[Ints, npt.NDArray[np.int32]]:
    """Offsets and values, without a copy."""
    return column.offsets.to_numpy(), column.values.to_numpy()


def batched(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records in lists of `BATCH_ROWS`; the last may be shorter."""
    batch: list[Record] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
