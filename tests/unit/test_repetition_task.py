"""The Repetition task: what a row says, and what a copy is worth."""

from __future__ import annotations

import re

import numpy as np
import pytest

from trainable.data import Split
from trainable.errors import TaskError
from trainable.tasks import build_task
from trainable.tasks.repetition import RepetitionTask

SPLITS: tuple[Split, ...] = ("train", "val_id", "val_ood", "test_id", "test_ood")


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_repeats_its_equation(split: Split) -> None:
    for example in RepetitionTask(train_rows=40, val_rows=5, test_rows=5).examples(split):
        match = re.fullmatch(r"(\d\d@\d\d=\d\d) x(\d+):", example.prompt)
        assert match is not None
        assert int(match[2]) == example.distance
        assert example.completion.split(",") == [match[1]] * example.distance
        assert example.closed


def test_splits_share_no_equation_at_full_size() -> None:
    task = RepetitionTask(train_rows=8000, val_rows=500, test_rows=500)
    equations = {split: {e.prompt.split()[0] for e in task.examples(split)} for split in SPLITS}
    assert len(equations["train"]) == 8000
    assert not equations["train"] & (equations["val_id"] | equations["test_id"])
    assert not equations["val_id"] & equations["test_id"]
    assert equations["val_id"] == equations["val_ood"]


@pytest.mark.parametrize(
    ("wrong", "copy_accuracy"), [([], 1.0), ([0], 0.5), ([8], 0.5), ([9, 17], 0.5), ([3, 12], 0.0)]
)
def test_scores(wrong: list[int], copy_accuracy: float) -> None:
    texts = [*"12@34=46,12@34=46", "</s>"]
    right_N = np.ones(len(texts), dtype=bool)
    right_N[wrong] = False
    scores = RepetitionTask().score(texts, right_N)
    assert scores["copy_accuracy"] == copy_accuracy


def test_wrong_options_are_named() -> None:
    with pytest.raises(TaskError, match=r"task\.train_lengths=\(5, 1\)"):
        build_task({"kind": "repetition", "train_lengths": [5, 1]}, seed=0)
