"""Data files row by row: what is fine, and every kind of row that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from trainable.base_model.tokenizer import build_tokenizer
from trainable.errors import BadRowsError, LatentuneError
from trainable.records.checking import MAX_TEXT_BYTES, Record, as_record
from trainable.records.problems import SHOWN, RowProblems
from trainable.records.reading import digest_or_none
from trainable.records.store import RecordStore
from trainable.records.table import RecordTable

GOOD = {"prompt": "1+1=", "completion": "2"}
CHAT = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]


def line(**fields: Any) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in GOOD.items() if key != name}).encode()


def read(*paths: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> RecordTable:
    problems = RowProblems()
    store = RecordStore(tokenizer or build_tokenizer(), None)
    table = store.table({str(path): digest_or_none(path) for path in paths}, problems)
    problems.raise_any()
    assert table is not None
    return table


def refused(*paths: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> BadRowsError:
    with pytest.raises(BadRowsError) as caught:
        read(*paths, tokenizer=tokenizer)
    return caught.value


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data.jsonl"


# --- every kind of bad row


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        (line(prompt=None), "prompt is null"),
        (line(completion=None), "completion is null"),
        (line(completion=""), "completion is empty"),
        (without("prompt"), "the column prompt is missing"),
        (b'{"prompt": "1", "answer": "2"}', "the column completion is missing; there are answer"),
        (b"{}", "the column prompt is missing"),
        (line(prompt=3), "prompt: expected a text, got 3"),
        (line(completion=["2"]), "completion: expected a text, got ['2']"),
        (line(completion=True), "completion: expected a text, got True"),
        (line(prompt="x" * (MAX_TEXT_BYTES + 1)), "prompt has 1000001 bytes, above 1000000"),
        (line(completion="\u00e9" * 500_001), "completion has 1000002 bytes"),
        (b'{"prompt": "\xff\xfe", "completion": "2"}', "no valid UTF-8 at byte 13"),
        (b'{"prompt": "\\ud800", "completion": "2"}', "prompt holds half a surrogate pair"),
        (b'{"prompt": "1", "completion": "2"', "no valid JSON: Expecting ',' delimiter at"),
        (b"{'prompt': '1'}", "no valid JSON: Expecting property name"),
        (b"nonsense", "no valid JSON"),
        (b"[" * 100_000, "no valid JSON: maximum recursion"),
        (b"9" * 5000, "no valid JSON: Exceeds the limit"),
        (b"[1, 2]", "expected a JSON object, got [1, 2]"),
        (b'"text"', "expected a JSON object, got 'text'"),
        (b"null", "expected a JSON object, got None"),
        (b"", "the line is empty"),
        (b"   ", "the line is empty"),
        (line(messages=CHAT), "it has messages and prompt and completion"),
        (json.dumps({"messages": CHAT}).encode(), "it has messages, but the rows before have pro"),
        (line(id=[1]), "id: expected a text or a whole number, got [1]"),
        (line(id=True), "id: expected a text or a whole number, got True"),
        (line(id=1.5), "id: expected a text or a whole number, got 1.5"),
        (line(distance="far"), "distance: expected a whole number from 0, got 'far'"),
        (line(distance=-1), "distance: expected a whole number from 0, got -1"),
        (line(distance=1.0), "distance: expected a whole number from 0, got 1.0"),
        (line(distance=2**31), "distance: expected a whole number from 0"),
    ],
)
def test_a_bad_row_is_named_with_its_number(file: Path, row: bytes, wrong: str) -> None:
    file.write_bytes(b"\n".join([line(), line(), row, line()]))
    error = refused(file)
    assert error.count == 1
    assert str(error).startswith(f"bad data: {file} row 3: {wrong}"), error


@pytest.mark.parametrize(
    ("messages", "wrong"),
    [
        ("hello", "messages: expected a list of {role, content}, got 'hello'"),
        ([], "messages: expected at least a question and an answer"),
        (CHAT[1:], "messages: expected at least a question and an answer"),
        (CHAT[:1] * 2, "messages: the last one is by 'user', expected 'assistant'"),
        (["hi", "ho"], "messages.0: expected {role, content}, got 'hi'"),
        ([CHAT[0], {"role": "assistant"}], "messages.1.content is missing"),
        ([CHAT[0], {"role": "assistant", "content": None}], "messages.1.content is null"),
        ([CHAT[0], {"role": 1, "content": "2"}], "messages.1.role: expected a text, got 1"),
        ([CHAT[0], {"role": "assistant", "content": ""}], "messages: the last one's content is"),
    ],
)
def test_bad_messages(file: Path, messages: Any, wrong: str) -> None:
    file.write_text(json.dumps({"messages": messages}))
    assert f"{file} row 1: {wrong}" in str(refused(file))


def test_a_prompt_without_any_token_needs_a_bos(file: Path) -> None:
    file.write_bytes(line(prompt=""))
    assert read(file).query_lengths_N.tolist() == [1]  # BOS alone
    bare = build_tokenizer()
    bare.backend_tokenizer.post_processor = None
    assert "row 1: prompt is empty, and the tokenizer puts no BOS" in str(
        refused(file, tokenizer=bare)
    )


def test_ids_that_are_there_twice_are_told_across_files(file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"\n".join([line(id="a"), line(id=7), line(), line(id=None), line(id="a")]))
    other = tmp_path / "more.jsonl"
    other.write_bytes(line(id="7"))
    assert refused(file, other).shown == (
        f"{file} row 5: id 'a' is there twice, first in {file} row 1",
        f"{other} row 1: id '7' is there twice, first in {file} row 2",
    )


def test_all_bad_rows_come_at_once_the_first_twenty_by_name(file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"\n".join([line(prompt=None), b"{", *[line(completion="")] * 30]))
    missing = tmp_path / "none.jsonl"
    error = refused(file, missing)
    assert error.count == 33
    assert len(error.shown) == SHOWN == 20
    text = str(error)
    assert text.startswith("bad data: 33 problems\n- ")
    assert text.endswith("- … and 13 more")
    assert f"{file} row 2: no valid JSON" in text
    assert isinstance(error, LatentuneError)


# --- files as a whole


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("a.jsonl", b"", "it has no rows"),
        ("a.jsonl", b"\xef\xbb\xbf\r\n\n", "it has no rows"),
        ("a.jsonl", '{"prompt"'.encode("utf-16"), "it is UTF-16: save it as UTF-8"),
        ("a.json", b'[\n{"prompt": "1", "completion": "2"}\n]', "it is one JSON array"),
        ("a.csv", b"prompt,completion\n1,2\n", "a file of this kind is not read: give one of .js"),
        ("a.parquet", b"PAR1 nonsense PAR1", "no valid Parquet: "),
        ("a.parquet", b"", "no valid Parquet: "),
    ],
)
def test_a_file_that_is_no_data(tmp_path: Path, name: str, content: bytes, wrong: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert f"{path}: {wrong}" in str(refused(path))


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").mkdir()
    assert "there is no such file" in str(refused(tmp_path / "none.jsonl"))
    assert "it is a folder" in str(refused(tmp_path / "d.jsonl"))


# --- what is fine


def test_marks_of_editors_and_systems_are_fine(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + line(prompt="a") + b"\r\n" + line(prompt="b") + b"\r\n\n\n")
    table = read(file)
    assert [table.texts(place) for place in range(2)] == [("a", "2"), ("b", "2")]
    assert [table.origin(place) for place in range(2)] == [(str(file), 1), (str(file), 2)]


def test_a_million_bytes_are_fine() -> None:
    assert isinstance(as_record({**GOOD, "completion": "x" * MAX_TEXT_BYTES}, 0, 1), Record)


def test_other_columns_are_passed_over_and_named(file: Path) -> None:
    file.write_bytes(b"\n".join([line(id=3, source="web"), line(distance=4, note=None)]))
    table = read(file)
    assert table.facts["ignored"] == ["note", "source"]
    assert table.distances_N.tolist() == [-1, 4]
    assert [table.identifier(place) for place in range(2)] == ["3", None]


# --- Parquet


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_rows_are_json_rows(file: Path, tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet", completion=["2", "4"], prompt=["1", "3"], id=[5, None], other=[0, 0]
    )
    file.write_text('{"prompt":"1","completion":"2","id":5}\n{"prompt":"3","completion":"4"}')
    table, same = read(path), read(file)
    assert [table.ids(place)[0].tolist() for place in range(2)] == [
        same.ids(place)[0].tolist() for place in range(2)
    ]
    assert table.facts["ignored"] == ["other"]
    assert table.identifier(0) == "5"


def test_bad_parquet_rows(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "a.parquet", prompt=["1", None, "1", "1"], completion=["2", "2", "", "2"]
    )
    assert refused(path).shown == (
        f"{path} row 2: prompt is null",
        f"{path} row 3: completion is empty: nothing is left to learn",
    )
    path = parquet(tmp_path / "b.parquet", prompt=[1, 2], completion=["2", "2"])
    assert refused(path).shown[1] == f"{path} row 2: prompt: expected a text, got 2"
    path = parquet(tmp_path / "c.parquet", question=["1"], answer=["2"])
    assert "it has only the columns question, answer; expected prompt" in str(refused(path))
    path = parquet(tmp_path / "d.parquet", prompt=pa.array([], pa.string()), completion=[])
    assert "it has no rows" in str(refused(path))


def test_parquet_texts_that_are_no_utf8(tmp_path: Path) -> None:
    raw = pa.array([b"1", b"\xff\xfe", b"3"], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    path = parquet(tmp_path / "a.parquet", prompt=texts, completion=["2", "2", ""])
    assert refused(path).shown == (
        f"{path} row 2: no valid UTF-8 at byte 1 of a text",
        f"{path} row 3: completion is empty: nothing is left to learn",
    )


def test_parquet_chats(tmp_path: Path) -> None:
    chatty = build_tokenizer()
    chatty.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }};{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    table = read(parquet(tmp_path / "a.parquet", messages=[CHAT, CHAT]), tokenizer=chatty)
    assert table.texts(1) == ("[user]1+1?;[assistant]", "2")
    assert table.kind == "messages"
