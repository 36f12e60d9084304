"""What every task promises: one base class, one subclass per task."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pytest

from trainable.base_model.tokenizer import build_tokenizer
from trainable.data import SEARCH_SPLITS, TEST_SPLITS, EncodedTask, Split, Task
from trainable.tasks import TASKS, build_task

SPLITS: tuple[Split, ...] = ("train", *SEARCH_SPLITS, *TEST_SPLITS)


class TaskContract(ABC):
    """The contract."""

    kind: str

    @abstractmethod
    def options(self) -> dict[str, object]:
        """Options that make a small task."""

    def build(self, seed: int = 0) -> Task:
        return build_task({"kind": self.kind, **self.options()}, seed)

    @pytest.mark.parametrize("split", SPLITS)
    def test_a_split_has_rows_and_always_the_same(self, split: Split) -> None:
        rows = list(self.build().examples(split))
        assert rows
        assert rows == list(self.build().examples(split))
        assert all(row.prompt and row.completion for row in rows)

    def test_another_seed_gives_other_rows(self) -> None:
        assert list(self.build(0).examples("train")) != list(self.build(1).examples("train"))

    def test_what_is_tested_was_not_trained_on(self) -> None:
        prompts = {split: {e.prompt for e in self.build().examples(split)} for split in SPLITS}
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

    @pytest.mark.parametrize("split", SPLITS)
    def test_exact_match_is_all_tokens_right(self, split: Split) -> None:
        data = EncodedTask(self.build(), build_tokenizer())
        row = data.rows(split)[0]
        right_N = np.ones(len(row.ids) - row.query_length, dtype=bool)
        assert data.score(row, right_N)["exact_match"] == 1.0
        for place in (0, -1):
            wrong_N = right_N.copy()
            wrong_N[place] = False
            assert data.score(row, wrong_N)["exact_match"] == 0.0


class TestGeneration(TaskContract):
    kind = "generation"

    def options(self) -> dict[str, object]:
        return {"train_rows": 40, "val_rows": 8, "test_rows": 8}


class TestSummation(TaskContract):
    kind = "summation"

    def options(self) -> dict[str, object]:
        return {"train_rows": 40, "val_rows": 8, "test_rows": 8}


class TestRepetition(TaskContract):
    kind = "repetition"

    def options(self) -> dict[str, object]:
        return {"train_rows": 40, "val_rows": 8, "test_rows": 8}


def test_every_task_has_a_contract() -> None:
    assert {contract.kind for contract in TaskContract.__subclasses__()} == set(TASKS)
