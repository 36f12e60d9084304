"""The Generation task: the paper's rule, disjoint splits, scores."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from trainable.data import Split
from trainable.errors import TaskError
from trainable.tasks import build_task
from trainable.tasks.generation import GenerationTask, result_of

SPLITS: tuple[Split, ...] = ("train", "val_id", "val_ood", "test_id", "test_ood")
PAPER = "44@47=83,47@83=34,83@34=21"


def equations_of(chain: str) -> list[tuple[str, str, str]]:
    found = []
    for equation in chain.split(","):
        operands, result = equation.split("=")
        left, right = operands.split("@")
        found.append((left, right, result))
    return found


@pytest.mark.parametrize(
    ("left", "right", "result"),
    [
        ("44", "47", "83"),
        ("47", "83", "34"),
        ("83", "34", "21"),
        ("99", "90", "00"),  # 18 mod 9, |9 - 0| mod 9
        ("00", "09", "00"),
        ("50", "48", "08"),
    ],
)
def test_the_rule_is_the_papers(left: str, right: str, result: str) -> None:
    assert result_of(left, right) == result


def test_the_papers_chain() -> None:
    for left, right, result in equations_of(PAPER):
        assert result_of(left, right) == result


@pytest.mark.parametrize("split", SPLITS)
def test_every_row_is_a_chain(split: Split) -> None:
    task = GenerationTask(train_rows=40, val_rows=5, test_rows=5)
    for example in task.examples(split):
        assert len(example.prompt) == len("44@47=")
        assert not example.closed
        equations = equations_of(example.prompt + example.completion)
        assert len(equations) == example.distance
        for left, right, result in equations:
            assert result == result_of(left, right)
        for (_, right, result), after in itertools.pairwise(equations):
            assert after[:2] == (right, result)


def test_lengths_of_each_split() -> None:
    task = GenerationTask(train_rows=40, val_rows=5, test_rows=6)
    distances = {split: [e.distance for e in task.examples(split)] for split in SPLITS}
    assert sorted(set(distances["train"])) == [3, 4, 5, 6]
    assert [len(distances[split]) for split in SPLITS] == [40, 20, 10, 24, 18]
    assert set(distances["val_ood"]) == {8, 12}
    assert set(distances["test_ood"]) == {8, 12, 18}
    assert all(distances["val_ood"].count(length) == 5 for length in (8, 12))


def test_splits_share_no_first_equation() -> None:
    task = GenerationTask(train_rows=6000, val_rows=1500, test_rows=2500)
    prompts = {split: {e.prompt for e in task.examples(split)} for split in SPLITS}
    val = prompts["val_id"] | prompts["val_ood"]
    test = prompts["test_id"] | prompts["test_ood"]
    assert not prompts["train"] & val
    assert not prompts["train"] & test
    assert not val & test
    assert len(prompts["train"] | val | test) == 100 * 100


def test_the_seed_decides_the_rows_and_nothing_else_does() -> None:
    def rows(seed: int) -> list[str]:
        task = GenerationTask(train_rows=30, val_rows=3, test_rows=3, seed=seed)
        return [e.prompt + e.completion for split in SPLITS for e in task.examples(split)]

    assert rows(0) == rows(0)
    assert rows(0) != rows(1)
    few, many = (GenerationTask(train_rows=rows, val_rows=3) for rows in (10, 30))
    assert few.examples("train") == many.examples("train")[:10]
    assert few.examples("val_id") == many.examples("val_id")


def score(completion: str, wrong: list[int]) -> dict[str, float]:
    right_N = np.ones(len(completion), dtype=bool)
    right_N[wrong] = False
    return GenerationTask().score(list(completion), right_N)


def test_scores() -> None:
    completion = PAPER.removeprefix("44@47=")  # 83,47@83=34,83@34=21
    assert score(completion, []) == {"equation_accuracy": 1.0}
    assert score(completion, [0]) == {"equation_accuracy": 2 / 3}
    assert score(completion, [0, 1, 2]) == {"equation_accuracy": 2 / 3}
    assert score(completion, [2, 3])["equation_accuracy"] == 1 / 3  # a comma closes its equation
    assert score(completion, [len(completion) - 1])["equation_accuracy"] == 2 / 3
    assert score(completion, list(range(len(completion))))["equation_accuracy"] == 0.0


def test_scores_of_one_equation() -> None:
    assert score("83", []) == {"equation_accuracy": 1.0}
    assert score("83", [1]) == {"equation_accuracy": 0.0}


def test_scores_with_commas_inside_tokens() -> None:
    scores = GenerationTask().score(["83,4", "7@83", "=34"], np.array([True, False, True]))
    assert scores == {"equation_accuracy": 0.5}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_lengths": (6, 3)}, ["task.train_lengths=(6, 3)"]),
        ({"train_lengths": (0, 3)}, ["task.train_lengths"]),
        ({"val_ood_lengths": (6, 8)}, ["task.val_ood_lengths=[6, 8]", "longer", "6"]),
        ({"val_ood_lengths": ()}, ["task.val_ood_lengths"]),
        ({"test_ood_lengths": (5,)}, ["task.test_ood_lengths"]),
        ({"train_rows": 0}, ["task.train_rows=0", "6000"]),
        ({"train_rows": 6001}, ["task.train_rows=6001"]),
        ({"val_rows": 1501}, ["task.val_rows=1501", "1500"]),
        ({"test_rows": 2501}, ["task.test_rows=2501"]),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(TaskError) as caught:
        GenerationTask(**options)
    for word in words:
        assert word in str(caught.value)


def test_build_task() -> None:
    task = build_task({"kind": "generation", "train_lengths": [2, 4], "train_rows": 5}, seed=9)
    assert task == GenerationTask(train_lengths=(2, 4), train_rows=5, seed=9)
    with pytest.raises(TaskError, match=r"task\.kind='sums'.*generation"):
        build_task({"kind": "sums"}, seed=0)
    with pytest.raises(TaskError, match=r"task\.kind=None"):
        build_task({}, seed=0)
