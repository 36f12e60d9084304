"""The task section of a search file, of each kind, and the metrics that it allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.config import RecordsTaskConfig, SearchConfig, config_differences, load_search
from orchestrator.errors import ConfigError
from orchestrator.task_sections import TASK_SECTIONS
from orchestrator.yaml_source import dump_yaml
from trainable.tasks import RECORDS, TASKS

RECORDS_TASK: dict[str, Any] = {"kind": "records", "train": "data.jsonl"}
OOD = {"by": "prompt_tokens", "above": 64}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "search.yaml"


def written(file: Path, task: Any = None, **changed: Any) -> Path:
    task = RECORDS_TASK if task is None else task
    data = {"name": "mine", "task": task, "space": "quick", "budget": {"trials": 2}}
    file.write_text(dump_yaml(data | changed))
    return file


def records(file: Path, **options: Any) -> RecordsTaskConfig:
    task = load_search(written(file, RECORDS_TASK | options)).task
    assert isinstance(task, RecordsTaskConfig)
    return task


def only_problem(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_search(file)
    assert len(caught.value.problems) == 1, caught.value
    return str(caught.value.problems[0])


def test_every_task_has_a_section() -> None:
    assert set(TASK_SECTIONS) == {*TASKS, RECORDS}


def test_a_minimal_records_task(file: Path) -> None:
    task = records(file)
    assert task.model_dump(mode="json") == {
        "kind": "records",
        "train": [str(file.parent / "data.jsonl")],
        "val_id": None,
        "val_ood": None,
        "test_id": None,
        "test_ood": None,
        "split": {"val": 0.1, "test": 0.1, "seed": 0},
        "ood": None,
        "metrics": [],
    }
    assert task.splits() == ("train", "val_id", "test_id")


def test_paths_are_relative_to_the_search_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").touch()
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/me")
    task = records(
        file,
        train=["a.jsonl", "/b/c.parquet", "../d.jsonl", "~/e.jsonl"],
        val_id="sub/v.jsonl",
        metrics=["own:f1", "os.path:exists", "nll"],
    )
    parent = tmp_path.parent
    assert task.train == (
        f"{tmp_path}/a.jsonl",
        "/b/c.parquet",
        f"{parent}/d.jsonl",
        "/home/me/e.jsonl",
    )
    assert task.val_id == (f"{tmp_path}/sub/v.jsonl",)
    assert task.metrics == (f"{tmp_path}/own.py:f1", "os.path:exists", "nll")
    assert task.metrics_by_name() == ("exact_match", "token_accuracy", "nll", "f1", "exists")
    stored = tmp_path / "elsewhere" / "config.yaml"
    stored.parent.mkdir()
    stored.write_text(load_search(file).to_yaml())
    assert load_search(stored) == load_search(file)


def test_in_python_paths_are_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"name": "mine", "task": RECORDS_TASK, "space": "quick", "budget": {"trials": 2}}
    task = SearchConfig.model_validate(data).task
    assert isinstance(task, RecordsTaskConfig)
    assert task.train == (f"{tmp_path}/data.jsonl",)


@pytest.mark.parametrize(
    ("options", "splits"),
    [
        ({"split": {"test": 0.0}}, ["train", "val_id"]),
        ({"ood": OOD}, ["train", "val_id", "val_ood", "test_id", "test_ood"]),
        ({"ood": OOD, "split": {"test": 0.0}}, ["train", "val_id", "val_ood"]),
        ({"val_ood": "o.jsonl"}, ["train", "val_id", "val_ood", "test_id"]),
        ({"test_ood": "o.jsonl", "split": {"test": 0.0}}, ["train", "val_id", "test_ood"]),
    ],
)
def test_splits(file: Path, options: dict[str, Any], splits: list[str]) -> None:
    assert list(records(file, **options).splits()) == splits


@pytest.mark.parametrize(
    ("task", "changed", "objective"),
    [
        (RECORDS_TASK, {}, "val_id/exact_match"),
        (RECORDS_TASK | {"ood": OOD}, {}, "val_ood/exact_match"),
        ({"kind": "generation"}, {}, "val_ood/exact_match"),
        (RECORDS_TASK, {"objective": "val_id/nll"}, "val_id/nll"),
        ({"kind": "generation"}, {"objective": "val_ood/nll/8"}, "val_ood/nll/8"),
        (RECORDS_TASK | {"metrics": ["m:f1"]}, {"objective": "val_id/f1"}, "val_id/f1"),
        (RECORDS_TASK | {"ood": OOD}, {"objective": "val_ood/nll/2"}, "val_ood/nll/2"),
    ],
)
def test_the_objective(
    file: Path, task: dict[str, Any], changed: dict[str, Any], objective: str
) -> None:
    assert load_search(written(file, task, **changed)).objective == objective


@pytest.mark.parametrize(
    ("task", "changed", "message"),
    [
        (
            RECORDS_TASK,
            {"objective": "val_ood/exact_match"},
            "objective (line 8): got 'val_ood/exact_match', the task has no val_ood; write "
            "val_id/exact_match, or give task.val_ood a file or task.ood a rule",
        ),
        (
            RECORDS_TASK,
            {"objective": "val_id/equation_accuracy"},
            "got 'val_id/equation_accuracy', the search does not measure that; did you mean",
        ),
        (
            RECORDS_TASK | {"metrics": ["normalised_match"]},
            {"stopping": {"metric": "val_id/normalized_match"}},
            "stopping.metric (line 11): got 'val_id/normalized_match', the search does not "
            "measure that; did you mean `val_id/normalised_match`?",
        ),
        (RECORDS_TASK, {"objective": "val_id/nll/x"}, "the search does not measure that; did you"),
        (RECORDS_TASK, {"objective": "val_id/nll/"}, "the search does not measure that; did you"),
        (RECORDS_TASK, {"objective": "val_id/nll/01"}, "the search does not measure that; did"),
        (RECORDS_TASK, {"objective": "nll"}, "the search does not measure that; "),
        (
            {"kind": "recrods", "train": "x"},
            {},
            " or 'records'; did you mean `records`?",
        ),
        ({"train": "x"}, {}, "task.kind (line 2): the key is missing; add kind: one of generation"),
        ("records", {}, "task (line 2): got 'records', expected a mapping of fields; give what is"),
        ({"kind": "records"}, {}, "task.train (line 2): the key is missing; add train: the file"),
        (RECORDS_TASK | {"tran": 1}, {}, "task.tran (line 5): got 1, the key is unknown; did you"),
        (RECORDS_TASK | {"train": []}, {}, "task.train (line 4): got [], expected at least 1 item"),
        (
            RECORDS_TASK | {"train": [3]},
            {},
            "task.train.0 (line 5): got 3, expected a valid string",
        ),
        (
            RECORDS_TASK | {"split": {"vla": 0.2}},
            {},
            "task.split.vla (line 6): got 0.2, the key is unknown; did you mean `val`?",
        ),
        (
            RECORDS_TASK | {"split": {"val": 0.5, "test": 0.6}},
            {},
            "task.split (line 5): got [0.5, 0.6], nothing is left to train on; lower val or test",
        ),
        (RECORDS_TASK | {"split": {"val": 1.0}}, {}, "task.split.val (line 6): got 1.0"),
        (
            RECORDS_TASK | {"split": {"val": 0.0}},
            {},
            "task.split.val (line 6): nothing of train is left for validation; raise it above 0",
        ),
        (
            RECORDS_TASK | {"ood": {"by": "words", "above": 3}},
            {},
            "task.ood.by (line 6): got 'words', expected 'prompt_tokens', 'response_tokens'",
        ),
        (RECORDS_TASK | {"ood": {"by": "prompt_chars"}}, {}, "task.ood.above (line 5): the key is"),
        (
            RECORDS_TASK | {"ood": OOD, "val_ood": "v.jsonl", "test_ood": "t.jsonl"},
            {},
            "task.ood (line 5): no split is left for rows above the bound; remove it, or val_ood",
        ),
        (
            RECORDS_TASK | {"ood": OOD, "val_ood": "v.jsonl", "split": {"test": 0}},
            {},
            "task.ood (line 5): no split is left for rows above the bound; remove it, or val_ood",
        ),
        (
            RECORDS_TASK | {"metrics": ["exact_mach"]},
            {},
            "task.metrics.0 (line 6): got 'exact_mach', there is no such metric; did you mean "
            "`exact_match`?",
        ),
        (
            RECORDS_TASK | {"metrics": "normalised_match"},
            {},
            "task.metrics (line 5): got 'normalised_match', expected a list of metrics; write "
            "[normalised_match]",
        ),
        (
            RECORDS_TASK | {"train": 3},
            {},
            "got 3, expected a file, or a list of files; write data.jsonl, or [a.jsonl, b.jsonl]",
        ),
        (RECORDS_TASK | {"val_id": 3}, {}, "task.val_id (line 5): got 3, expected a file, or a"),
        (RECORDS_TASK | {"metrics": ["m:"]}, {}, "task.metrics.0 (line 6): got 'm:', it names no"),
        (
            RECORDS_TASK | {"metrics": ["a:f1", "b:f1"]},
            {},
            "task.metrics (line 5): got ['a:f1', 'b:f1'], the name f1 stands for two metrics",
        ),
        (RECORDS_TASK, {"data": {"long_rows": "cut"}}, "expected 'refuse' or 'drop'; known"),
    ],
)
def test_a_mistake_is_named_once(
    file: Path, task: Any, changed: dict[str, Any], message: str
) -> None:
    assert message in only_problem(written(file, task, **changed))


def test_problems_of_a_task_come_beside_others(file: Path) -> None:
    written(file, RECORDS_TASK | {"metrics": ["x"]}, name="Bad Name", objective="val_odd/nll")
    with pytest.raises(ConfigError) as caught:
        load_search(file)
    paths = [problem.path for problem in caught.value.problems]
    assert paths == ["name", "task.metrics.0", "objective"]


def test_another_file_is_another_search(file: Path) -> None:
    old = load_search(written(file))
    new = load_search(written(file, RECORDS_TASK | {"train": "other.jsonl"}))
    folder = file.parent
    assert config_differences(old, new) == [
        f"task.train: ['{folder}/data.jsonl'] -> ['{folder}/other.jsonl']"
    ]


def test_a_model_built_in_python_is_checked_too() -> None:
    data = {"name": "mine", "task": {"kind": "records"}, "space": "quick", "budget": {"trials": 2}}
    with pytest.raises(ValidationError, match="train"):
        SearchConfig.model_validate(data)


def test_editors_get_a_schema_of_each_kind() -> None:
    schema = SearchConfig.model_json_schema()
    assert set(schema["properties"]["task"]["discriminator"]["mapping"]) == set(TASK_SECTIONS)
    train = schema["$defs"]["RecordsTaskConfig"]["properties"]["train"]
    assert {"type": "string"} in train["anyOf"]
