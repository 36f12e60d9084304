"""The cache of tokenised rows: made once, kept by content, made again where it is damaged."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import BatchEncoding, PreTrainedTokenizerFast

from tests.unit.test_house import ROOT
from trainable.base_model.tokenizer import build_tokenizer
from trainable.errors import BadRowsError, TaskError
from trainable.records.problems import RowProblems
from trainable.records.reading import digest_or_none
from trainable.records.store import RecordStore
from trainable.records.table import BATCH_ROWS, RecordTable, TableSplit


class Counting(PreTrainedTokenizerFast):
    """A tokenizer that counts the texts that it is given in lists."""

    texts = 0

    def __call__(self, text: Any = None, *args: Any, **options: Any) -> BatchEncoding:
        self.texts += len(text) if isinstance(text, list) else 0
        encoding: BatchEncoding = super().__call__(text, *args, **options)
        return encoding


@pytest.fixture
def counting() -> Counting:
    plain = build_tokenizer()
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    specials = {name: getattr(plain, name) for name in names}
    make: Any = Counting
    counting: Counting = make(tokenizer_object=plain.backend_tokenizer, **specials)
    return counting


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "data.jsonl", 40)


def written(path: Path, rows: int) -> Path:
    lines = [json.dumps({"prompt": f"{i}+1=", "completion": str(i + 1)}) for i in range(rows)]
    path.write_text("\n".join(lines))
    return path


def table(tokenizer: PreTrainedTokenizerFast, cache: Path | None, *files: Path) -> RecordTable:
    problems = RowProblems()
    digests = {str(file): digest_or_none(file) for file in files}
    found = RecordStore(tokenizer, cache).table(digests, problems)
    problems.raise_any()
    assert found is not None
    return found


def everything(records: RecordTable) -> list[Any]:
    rows = range(len(records))
    return [(*records.ids(i)[0].tolist(), *records.texts(i), *records.origin(i)) for i in rows]


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_a_second_load_tokenises_nothing(counting: Counting, file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "cache"
    first = table(counting, cache, file)
    assert counting.texts == 3 * 40  # prompts, completions, and both as one text
    second = table(counting, cache, file)
    assert counting.texts == 3 * 40
    assert everything(second) == everything(first)
    assert len(entries(cache)) == 1
    (content,) = {type(batch.column("ids").values.buffers()[1]) for batch in second._batches}
    assert content  # a buffer of the file, not a copy in Python's memory


def test_without_a_cache_all_stays_in_memory(counting: Counting, file: Path) -> None:
    before = sorted(file.parent.rglob("*"))
    table(counting, None, file)
    table(counting, None, file)
    assert counting.texts == 2 * 3 * 40
    assert sorted(file.parent.rglob("*")) == before


def test_another_content_or_tokenizer_is_another_entry(
    counting: Counting, file: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    table(counting, cache, file)
    moved = file.rename(tmp_path / "moved.jsonl")
    assert table(counting, cache, moved).origin(3) == (str(moved), 4)  # the name is not its content
    assert len(entries(cache)) == 1
    moved.write_text(moved.read_text() + "\n" + '{"prompt": "a", "completion": "b"}')
    assert len(table(counting, cache, moved)) == 41
    counting.chat_template = "{{ messages }}"
    table(counting, cache, moved)
    assert len(entries(cache)) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_entry_is_made_again(
    counting: Counting, file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache = tmp_path / "cache"
    sound = everything(table(counting, cache, file))
    (entry,) = cache.iterdir()
    content = bytearray(entry.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    entry.unlink()
    kinds = {"cut": content[:-100], "flipped": content, "empty": b"", "foreign": b"x" * 99}
    entry.write_bytes(bytes(kinds[damage]))
    with caplog.at_level(logging.WARNING):
        assert everything(table(counting, cache, file)) == sound
    assert "is damaged: it is made again" in caplog.text
    assert counting.texts == 2 * 3 * 40
    assert [name.split("-")[0] for name in entries(cache)] == [entry.name.split("-")[0]]


def test_bad_rows_leave_nothing_behind(file: Path, tmp_path: Path) -> None:
    file.write_text(file.read_text() + "\nnonsense")
    cache = tmp_path / "deep" / "cache"
    with pytest.raises(BadRowsError):
        table(build_tokenizer(), cache, file)
    assert not cache.parent.exists()
    cache.mkdir(parents=True)  # somebody's own folder stays
    with pytest.raises(BadRowsError):
        table(build_tokenizer(), cache, file)
    assert entries(cache) == []


def test_nothing_is_kept_of_a_sound_file_beside_a_bad_one(file: Path, tmp_path: Path) -> None:
    bad, cache, problems = tmp_path / "bad.jsonl", tmp_path / "cache", RowProblems()
    bad.write_text("nonsense")
    store = RecordStore(build_tokenizer(), cache)
    for path in (bad, file):
        assert store.table({str(path): digest_or_none(path)}, problems) is None
    assert problems.count == 1
    assert not cache.exists()


def test_a_tokenizer_that_fails_leaves_nothing_behind(file: Path, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    file.write_text(json.dumps({"messages": chat}))
    with pytest.raises(TaskError, match="no chat template"):
        table(build_tokenizer(), tmp_path / "cache", file)
    assert not (tmp_path / "cache").exists()


MAKE = """
import sys
from pathlib import Path
from trainable.base_model.tokenizer import build_tokenizer
from tests.unit.test_records_store import everything, table
print(len(everything(table(build_tokenizer(), Path(sys.argv[2]), Path(sys.argv[1])))))
"""


def test_two_processes_at_once_do_no_harm(file: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", MAKE, str(file), str(cache)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in both:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, "40\n"), err
    assert len(entries(cache)) == 1
    assert len(table(build_tokenizer(), cache, file)) == 40


def test_rows_are_found_across_batches(tmp_path: Path) -> None:
    count = 2 * BATCH_ROWS + 5
    file = written(tmp_path / "data.jsonl", count)
    more = written(tmp_path / "more.jsonl", 3)
    records = table(build_tokenizer(), tmp_path / "cache", file, more)
    assert len(records) == count + 3
    for place in (0, BATCH_ROWS - 1, BATCH_ROWS, 2 * BATCH_ROWS, count - 1):
        assert records.texts(place) == (f"{place}+1=", str(place + 1))
        assert records.origin(place) == (str(file), place + 1)
    assert records.origin(count) == (str(more), 1)
    lengths = [len(records.ids(place)[0]) for place in range(len(records))]
    assert records.lengths_N.tolist() == lengths
    assert records.characters_N("prompt").tolist()[:2] == [4, 4]
    split = TableSplit(records, np.array([count - 1, 7]), np.array([2, 0]))
    rows = split.rows()
    assert [(len(row.ids), row.distance) for row in rows] == [
        (lengths[count - 1], 2),
        (lengths[7], 0),
    ]
    assert [row.distance for row in rows[1:]] == [0]
    assert split.examples()[1].origin == f"{file} row 8"
    with pytest.raises(IndexError):
        rows[2]
