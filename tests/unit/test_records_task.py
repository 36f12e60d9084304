"""The records task as a whole: its splits, its report, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainable.base_model.tokenizer import build_tokenizer
from trainable.data import EncodedSource, EncodedTask, Task
from trainable.errors import BadRowsError, TaskError
from trainable.records.report import Overlap, digest_differences
from trainable.tasks import build_task
from trainable.tasks.records import RecordsTask


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def rows(count: int, longest: int = 9) -> list[dict[str, Any]]:
    """Prompts of 1 to `longest` digits."""
    return [{"prompt": f"{10 ** (i % longest) + i}=", "completion": str(i)} for i in range(count)]


def build(train: str | list[str], **options: Any) -> RecordsTask:
    files = [train] if isinstance(train, str) else train
    task = build_task(
        {"kind": "records", "train": files, **options}, 0, tokenizer=build_tokenizer()
    )
    assert isinstance(task, RecordsTask)
    return task


@pytest.fixture
def train(tmp_path: Path) -> str:
    return written(tmp_path / "train.jsonl", rows(300))


def test_it_is_a_task_that_encodes_its_rows(train: str) -> None:
    task: Task = build(train)
    assert isinstance(task, EncodedSource)
    data = EncodedTask(task, build_tokenizer())
    assert data.splits == ("train", "val_id", "test_id")
    for split in data.splits:
        lengths = [len(row.ids) for row in data.rows(split)]
        assert data.lengths(split).tolist() == lengths
        for place in (0, len(lengths) - 1):
            example, row = data.example(split, place), data.rows(split)[place]
            text = build_tokenizer().decode(row.ids, skip_special_tokens=True)
            assert text == example.prompt + example.completion
    assert data.score(data.rows("train")[0], data.rows("train")[0].ids[:1] > 0) == {
        "exact_match": 1.0,
        "token_accuracy": 1.0,
    }


def test_every_row_of_the_pool_is_in_one_split(train: str) -> None:
    task = build(train, ood={"by": "prompt_chars", "above": 5})
    origins = [e.origin for split in task.splits for e in task.examples(split)]
    assert sorted(origins) == sorted(f"{train} row {number}" for number in range(1, 301))
    assert sum(task.report.rows.values()) == 300
    assert all(len(e.prompt) <= 5 for e in task.examples("train"))
    assert all(len(e.prompt) > 5 for e in task.examples("val_ood"))
    assert task.report.distances["train"] == [0]
    assert task.report.distances["val_ood"] == [1]
    assert task.report.example == task.examples("val_id")[0].prompt


@pytest.mark.parametrize(
    ("by", "above"),
    [("prompt_tokens", 6), ("prompt_chars", 5), ("response_tokens", 3), ("completion_chars", 2)],
)
def test_each_measure(train: str, by: str, above: int) -> None:
    """Tokens are characters here: BOS stands before the prompt, EOS behind the completion."""
    task = build(train, ood={"by": by, "above": above}, split={"val": 0.4, "test": 0.0})
    assert task.splits == ("train", "val_id", "val_ood")
    measure = {"prompt_tokens": 1, "response_tokens": 1}.get(by, 0)
    side = "prompt" if by.startswith("prompt") else "completion"
    for split in task.splits:
        for example in task.examples(split):
            assert (len(getattr(example, side)) + measure > above) == (split == "val_ood")


def test_splits_with_files_are_taken_as_they_are(train: str, tmp_path: Path) -> None:
    val = written(tmp_path / "val.jsonl", [{"prompt": "a", "completion": "b", "distance": 3}])
    far = written(tmp_path / "far.jsonl", [{"prompt": "c", "completion": "d"}] * 2)
    task = build(train, val_id=[val], val_ood=[far, far], split={"val": 0.0, "test": 0.1})
    assert task.splits == ("train", "val_id", "val_ood", "test_id")
    assert [(e.prompt, e.distance) for e in task.examples("val_id")] == [("a", 3)]
    assert len(task.examples("val_ood")) == 2  # the same file twice is one file
    assert task.report.rows["train"] + task.report.rows["test_id"] == 300
    assert set(task.report.sha256) == {"train", "val_id", "val_ood"}


def test_the_data_s_own_distance_goes_before_the_rule_s(tmp_path: Path) -> None:
    given = [{**row, "distance": 7} if i % 2 else row for i, row in enumerate(rows(100))]
    train = written(tmp_path / "train.jsonl", given)
    task = build(train, ood={"by": "prompt_chars", "above": 5}, split={"val": 0.1, "test": 0.0})
    assert task.report.distances["val_ood"] == [1, 7]


def test_overlap_with_train_is_counted(train: str, tmp_path: Path) -> None:
    task = build(train)
    assert task.report.overlap == {"val_id": Overlap(0, 0), "test_id": Overlap(0, 0)}
    same = rows(300)[0]
    val = [same, {**same, "completion": "other"}, {"prompt": "new", "completion": "1"}]
    whole = build(
        train, val_id=[written(tmp_path / "v.jsonl", val)], split={"val": 0.0, "test": 0.0}
    )
    assert whole.report.overlap == {"val_id": Overlap(prompts=2, rows=1)}


def test_unknown_characters_are_noted(tmp_path: Path) -> None:
    odd = [
        {**row, "prompt": "é" + row["prompt"]} if i > 40 else row for i, row in enumerate(rows(50))
    ]
    train = written(tmp_path / "t.jsonl", odd)
    for _ in range(2):  # read, and from the cache
        task = RecordsTask(train=[train], tokenizer=build_tokenizer(), cache=tmp_path / "cache")
        assert task.report.notes == [
            "task.train: 9 rows (row 42, 43, 44, 45, 46, …) hold characters that the tokenizer "
            "does not know: the model sees one unknown token for all of them"
        ]


def test_notes_tell_what_is_odd(tmp_path: Path) -> None:
    train = written(tmp_path / "t.jsonl", [{**row, "source": "web"} for row in rows(50)])
    assert build(train).report.notes == ["task.train: the columns source are not read"]


def test_changed_files_are_refused_by_name(train: str) -> None:
    known = build(train).report.sha256
    assert build(train, sha256=known).splits
    Path(train).write_text(Path(train).read_text().replace("1", "2"))
    with pytest.raises(TaskError, match=rf"task\.train: {train} has changed \(.* -> .*\): put"):
        build(train, sha256=known)
    assert digest_differences({"train": {"a": "1" * 64}}, {"train": {"a": "1" * 64}}) == []
    assert digest_differences({"train": {"a": "1" * 64}}, {}) == [
        "task.train: a has changed (111111111111… -> absent)"
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": {"val": 0.0001, "test": 0.1}}, "no rows in split val_id: raise task.split.val"),
        ({"split": {"val": 0.1, "test": 1e-4}}, "no rows in split test_id: raise task.split.test"),
        ({"ood": {"by": "prompt_chars", "above": 99}}, "split val_ood: lower task.ood.above"),
        (
            {"ood": {"by": "prompt_chars", "above": 1}},
            "split train: raise task.ood.above, which is 1",
        ),
        ({"metrics": ("normalised",)}, "task.metrics.0: 'normalised' is no metric"),
        ({"metrics": ("nll", "nowhere:f")}, "task.metrics.1: 'nowhere:f' cannot be imported"),
    ],
)
def test_what_gives_no_task(train: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError) as caught:
        build(train, **options)
    assert words in str(caught.value)


def test_bad_rows_of_all_files_come_at_once(train: str, tmp_path: Path) -> None:
    val = written(tmp_path / "val.jsonl", [{"prompt": "1"}])
    test = written(tmp_path / "test.jsonl", [{"prompt": "1", "completion": ""}])
    with pytest.raises(BadRowsError) as caught:
        build(train, val_id=[val], test_id=[test, str(tmp_path / "none.jsonl")])
    assert caught.value.count == 3


def test_files_of_two_kinds_are_refused(train: str, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    val = written(tmp_path / "val.jsonl", [{"messages": chat}])
    chatty = build_tokenizer()
    chatty.chat_template = "{% for m in messages %}{{ m.content }};{% endfor %}"
    with pytest.raises(TaskError, match=r"train has prompt and completion, val_id has messages"):
        build_task({"kind": "records", "train": [train], "val_id": [val]}, 0, tokenizer=chatty)
