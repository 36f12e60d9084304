"""What every task promises: one base class, one subclass per task."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pytest

from orchestrator.task_sections import TASK_SECTIONS
from trainable.base_model.tokenizer import build_tokenizer
from trainable.data import ALL_SPLITS, SEARCH_SPLITS, TEST_SPLITS, EncodedTask, Split, Task
from trainable.metrics import COMMON_METRICS, METRIC_NAME
from trainable.tasks import RECORDS, TASKS, build_task


class TaskContract(ABC):
    """The contract."""

    kind: str

    @abstractmethod
    def options(self, seed: int) -> dict[str, object]:
        """Options that make a small task with all splits; another seed makes another one."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def build(self, seed: int = 0) -> Task:
        options = {"kind": self.kind, **self.options(seed)}
        return build_task(options, seed, tokenizer=build_tokenizer())

    def test_train_and_val_id_are_always_there(self) -> None:
        splits = self.build().splits
        assert splits[:2] == ("train", "val_id")
        assert set(splits) <= set(ALL_SPLITS)

    @pytest.mark.parametrize("split", ALL_SPLITS)
    def test_a_split_has_rows_and_always_the_same(self, split: Split) -> None:
        rows = list(self.build().examples(split))
        assert rows
        assert rows == list(self.build().examples(split))
        assert all(row.prompt and row.completion for row in rows)

    def test_another_seed_gives_other_rows(self) -> None:
        assert list(self.build(0).examples("train")) != list(self.build(1).examples("train"))

    def test_what_is_tested_was_not_trained_on(self) -> None:
        task = self.build()
        prompts = {split: {e.prompt for e in task.examples(split)} for split in ALL_SPLITS}
        for split in (*SEARCH_SPLITS, *TEST_SPLITS):
            assert not prompts["train"] & prompts[split]
        for searched in SEARCH_SPLITS:
            for tested in TEST_SPLITS:
                assert not prompts[searched] & prompts[tested]

    def test_out_of_distribution_lies_beyond_what_was_trained(self) -> None:
        task = self.build()
        trained = {row.distance for row in task.examples("train")}
        for split in ("val_ood", "test_ood"):
            assert min(row.distance for row in task.examples(split)) > max(trained)
        assert {row.distance for row in task.examples("test_ood")} - {
            row.distance for row in task.examples("val_ood")
        }

    @pytest.mark.parametrize("split", ALL_SPLITS)
    def test_rows_are_the_examples_encoded(self, split: Split) -> None:
        data = EncodedTask(self.build(), build_tokenizer())
        rows = data.rows(split)
        assert data.lengths(split).tolist() == [len(row.ids) for row in rows]
        for place in (0, len(rows) - 1):
            row, example = rows[place], data.example(split, place)
            assert data.answer_text(row.ids[: row.query_length]) == example.prompt
            assert data.answer_text(row.ids[row.query_length :]) == example.completion
            assert row.distance == example.distance

    @pytest.mark.parametrize("split", ALL_SPLITS)
    def test_exact_match_is_all_tokens_right(self, split: Split) -> None:
        data = EncodedTask(self.build(), build_tokenizer())
        row = data.rows(split)[0]
        right_N = np.ones(len(row.ids) - row.query_length, dtype=bool)
        assert data.score(row, right_N)["exact_match"] == 1.0
        for place in (0, -1):
            wrong_N = right_N.copy()
            wrong_N[place] = False
            assert data.score(row, wrong_N)["exact_match"] == 0.0

    def test_its_section_knows_its_metrics_and_its_splits(self) -> None:
        """A search file may name what the task measures, and nothing else."""
        task = self.build()
        own = task.score(["1", ","], np.array([True, False]))
        assert not set(own) & set(COMMON_METRICS)
        measured = (*COMMON_METRICS, *own, *task.answer_metrics)
        assert all(METRIC_NAME.fullmatch(name) for name in measured)
        section = TASK_SECTIONS[self.kind].model_validate({"kind": self.kind, **self.options(0)})
        assert section.metrics_by_name() == measured
        assert section.splits() == task.splits


class TestGeneration(TaskContract):
    kind = "generation"

    def options(self, seed: int) -> dict[str, object]:
        return {"train_rows": 40, "val_rows": 8, "test_rows": 8}


class TestSummation(TaskContract):
    kind = "summation"

    def options(self, seed: int) -> dict[str, object]:
        return {"train_rows": 40, "val_rows": 8, "test_rows": 8}


class TestRepetition(TaskContract):
    kind = "repetition"

    def options(self, seed: int) -> dict[str, object]:
        return {"train_rows": 40, "val_rows": 8, "test_rows": 8}


class TestRecords(TaskContract):
    kind = RECORDS

    def options(self, seed: int) -> dict[str, object]:
        path = self.folder / "rows.jsonl"
        rows = [{"prompt": "a" * (i % 12) + str(i), "completion": f"{i}!"} for i in range(300)]
        path.write_text("\n".join(map(json.dumps, rows)))
        return {
            "train": [str(path)],
            "ood": {"by": "prompt_chars", "above": 5},
            "split": {"val": 0.2, "test": 0.2, "seed": seed},
            "metrics": ["exact_match", "normalised_match"],
        }


def test_every_task_has_a_contract() -> None:
    kinds = {contract.kind for contract in TaskContract.__subclasses__()}
    assert kinds == {*TASKS, RECORDS}
