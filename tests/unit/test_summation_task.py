"""The Summation task: what a row says, and what a look-up is worth."""

from __future__ import annotations

import numpy as np
import pytest

from trainable.data import Split
from trainable.errors import TaskError
from trainable.tasks import build_task
from trainable.tasks.summation import SummationTask

SPLITS: tuple[Split, ...] = ("train", "val_id", "val_ood", "test_id", "test_ood")


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_adds_two_of_its_variables(split: Split) -> None:
    for example in SummationTask(train_rows=40, val_rows=5, test_rows=5).examples(split):
        *lines, question = example.prompt.split("\n")
        values = dict(line.split("=") for line in lines)
        assert len(values) == len(lines) == example.distance
        first, second = question.removesuffix("=").split("+")
        assert first != second
        x, y = values[first], values[second]
        assert example.completion == f"{x}+{y}={int(x) + int(y):02d}"
        assert example.closed


def test_lengths_of_each_split() -> None:
    task = SummationTask(train_rows=40, val_rows=5, test_rows=6)
    distances = {split: {e.distance for e in task.examples(split)} for split in SPLITS}
    assert distances["train"] == distances["val_id"] == distances["test_id"] == set(range(5, 16))
    assert (distances["val_ood"], distances["test_ood"]) == ({18, 22}, {18, 22, 28})


@pytest.mark.parametrize(
    ("wrong", "value_accuracy"),
    [([], 1.0), ([0], 0.5), ([0, 2], 0.0), ([4], 1.0), ([6], 1.0), ([1], 0.5), ([3], 0.5)],
)
def test_scores(wrong: list[int], value_accuracy: float) -> None:
    texts = [*"3+7=10", "</s>"]
    right_N = np.ones(len(texts), dtype=bool)
    right_N[wrong] = False
    scores = SummationTask().score(texts, right_N)
    assert scores["value_accuracy"] == value_accuracy


def test_wrong_options_are_named() -> None:
    with pytest.raises(TaskError, match=r"task\.val_ood_lengths=\[15\]"):
        SummationTask(val_ood_lengths=(15,))
    with pytest.raises(TaskError, match=r"task\.train_rows=12001 must be from 1 to 12000"):
        build_task({"kind": "summation", "train_rows": 12001}, seed=0)
    with pytest.raises(TaskError, match=r"task\.test_ood_lengths=\[60\] must be at most 52"):
        SummationTask(test_ood_lengths=(60,))
    with pytest.raises(
        TaskError, match=r"task\.train_lengths=\(1, 5\) must be low, high from 2 up"
    ):
        SummationTask(train_lengths=(1, 5))
