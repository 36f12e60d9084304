"""The rows of a search: read before anything starts, and the same when it goes on."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.assignment import DataSource
from orchestrator.config import SearchConfig
from orchestrator.errors import ConfigError
from orchestrator.results import DataRecord
from orchestrator.search_data import data_differences, read_data
from tests.unit.ledgers import search_config, search_folder
from tests.unit.test_house import BLOCKER, run_python
from trainable.answer_metrics import metric_files
from trainable.errors import BadRowsError, TaskError


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": "1" * (i % 9) + f"{i}=", "completion": str(i)} for i in range(120)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def config_of(train: Path, **changed: Any) -> SearchConfig:
    return search_config(task={"kind": "records", "train": str(train)}, **changed)


def test_tasks_that_make_their_rows_need_no_transformers() -> None:
    code = "from orchestrator.search_data import read_data\n"
    code += "from tests.unit.ledgers import search_config\nfrom pathlib import Path\n"
    code += "print(read_data(search_config(), Path('/nowhere')).record.rows['train'])"
    blocked = {"torch", "transformers"}
    assert run_python(BLOCKER.format(blocked=blocked) + code) == "2048\n"


def test_tasks_that_make_their_rows_keep_no_cache(tmp_path: Path) -> None:
    found = read_data(search_config(data={"max_tokens": 99}), tmp_path)
    assert found.source == DataSource(
        task=search_config().task.model_dump(mode="json"),
        seed=0,
        max_tokens=99,
        long_rows="refuse",
        cache=str(tmp_path / "cache" / "records"),
    )
    assert (found.record.rows["train"], found.record.rows["val_id"]) == (2048, 256)
    assert found.record.example is not None
    assert list(tmp_path.iterdir()) == []


def test_files_are_read_checked_and_kept_tokenised(train: Path, tmp_path: Path) -> None:
    found = read_data(config_of(train), tmp_path / "home")
    assert sum(found.record.rows.values()) == 120
    assert set(found.record.overlap) == {"val_id", "test_id"}
    assert list(found.record.sha256) == ["train"]
    assert found.source.task["sha256"] == found.record.sha256
    assert str(found.record.example) in train.read_text()
    assert len(list((tmp_path / "home" / "cache" / "records").iterdir())) == 1
    json.dumps(found.source.task)  # it travels as plain data


def test_bad_rows_leave_no_home(train: Path, tmp_path: Path) -> None:
    train.write_text("{}")
    with pytest.raises(BadRowsError):
        read_data(config_of(train), tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_metric_of_one_s_own_is_tried_once(train: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def f1(answer, reference):\n    return 1\n")
    metrics = [f"{tmp_path}/own.py:f1"]
    config = search_config(task={"kind": "records", "train": str(train), "metrics": metrics})
    with pytest.raises(TaskError, match=r"metric f1 raised TypeError: .*unexpected keyword"):
        read_data(config, tmp_path)


def test_a_distance_that_no_row_has(train: Path, tmp_path: Path) -> None:
    ood = {"by": "prompt_chars", "above": 6}
    task = {"kind": "records", "train": str(train), "ood": ood}
    read_data(search_config(task=task, objective="val_ood/nll/1"), tmp_path)
    with pytest.raises(ConfigError) as caught:
        read_data(
            search_config(
                task=task,
                objective="val_ood/nll/3",
                stopping={"metric": "val_id/nll/2", "min_steps": 1},
            ),
            tmp_path,
        )
    assert [str(problem) for problem in caught.value.problems] == [
        "objective: got 'val_ood/nll/3', no row of val_ood has the distance 3; choose one of 1, or "
        "none for their mean",
        "stopping.metric: got 'val_id/nll/2', no row of val_id has the distance 2; choose one of "
        "0, or none for their mean",
    ]


def test_a_changed_file_is_a_difference(train: Path, tmp_path: Path) -> None:
    folder = search_folder(tmp_path)
    folder.path.mkdir(parents=True)
    assert data_differences(config_of(train), folder) == []  # there was no earlier run
    folder.data.write_text(read_data(config_of(train), tmp_path).record.model_dump_json())
    assert data_differences(config_of(train), folder) == []
    assert data_differences(search_config(), folder) == []  # it reads no files
    train.write_text(train.read_text() + '\n{"prompt": "a", "completion": "b"}')
    (difference,) = data_differences(config_of(train), folder)
    assert difference.startswith(f"task.train: {train} has changed (")


def test_a_changed_metric_is_a_difference(train: Path, tmp_path: Path) -> None:
    """What a search is scored by is part of it, as its rows are."""
    own, folder = tmp_path / "own.py", search_folder(tmp_path)
    own.write_text("def f1(answer, reference, prompt):\n    return 1\n")
    metrics = [f"{own}:f1", "operator:eq", "normalised_match"]
    task = {"kind": "records", "train": str(train), "metrics": metrics[::2]}
    config = search_config(task=task)
    folder.path.mkdir(parents=True)
    found = read_data(config, tmp_path)
    assert set(found.record.sha256) == {"train", "metrics"}
    assert set(found.source.task["sha256"]) == {"train"}
    folder.data.write_text(found.record.model_dump_json())
    assert data_differences(config, folder) == []
    own.write_text(own.read_text().replace("1\n", "2\n"))
    (difference,) = data_differences(config, folder)
    assert difference.startswith(f"task.metrics: {own} has changed (")
    assert metric_files(metrics) == [str(own), operator.__file__]
    assert metric_files(["sys:exit", "there_is_none:f"]) == []


def test_what_an_engine_found_joins_what_is_known(train: Path, tmp_path: Path) -> None:
    found = read_data(config_of(train), tmp_path)
    checked = found.checked(
        {"rows": {"train": 90, "val_id": 9}, "dropped": {"train": 6, "val_id": 0}}
    )
    assert (checked.rows, checked.dropped) == ({"train": 90, "val_id": 9}, {"train": 6})
    assert checked.overlap == found.record.overlap
    assert DataRecord.model_validate_json(checked.model_dump_json()) == checked
