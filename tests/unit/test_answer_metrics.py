"""Metrics of an answer's text: the built-in one, and a person's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainable.answer_metrics import (
    absolute_metric,
    judge,
    load_answer_metrics,
    metric_name,
    normalised,
    normalised_match,
    repeated_names,
)
from trainable.errors import TaskError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris", "paris"),
        ("  Paris.  ", "paris"),
        ('"The \n Big\tApple"!', "the big apple"),
        ("(42)", "42"),
        ("-5", "-5"),
        (".5", ".5"),
        ("5 %", "5 %"),
        ("¿Qué?", "qué"),
        ("«ja»", "ja"),
        ("?!", "?!"),  # else every text of marks would equal every other
        ("", ""),
        ("don't", "don't"),
        ("a, b", "a, b"),
    ],
)
def test_normalised(text: str, expected: str) -> None:
    assert normalised(text) == expected


def test_a_sign_makes_another_answer() -> None:
    assert normalised_match(answer=" PARIS. ", reference="paris", prompt="") == 1.0
    assert normalised_match(answer="-5", reference="5", prompt="") == 0.0


@pytest.mark.parametrize(
    ("spec", "name"),
    [("exact_match", "exact_match"), ("a.b:f1", "f1"), ("/x/my.py:rouge", "rouge"), ("m:C.f", "f")],
)
def test_the_name_of_a_metric(spec: str, name: str) -> None:
    assert metric_name(spec) == name


def test_names_that_clash() -> None:
    assert repeated_names(["exact_match", "nll", "normalised_match", "a:f1", "a:f1"]) == []
    assert repeated_names(["a:f1", "b:f1"]) == ["f1"]
    assert repeated_names(["a:nll"]) == ["nll"]
    assert repeated_names(["a:normalised_match"]) == ["normalised_match"]
    with pytest.raises(TaskError, match="'f1' stands for two metrics"):
        load_answer_metrics(["a:f1", "b:f1"])


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "my_metrics.py").write_text(
        "def length(*, answer, reference, prompt):\n    return len(answer)\n"
        "class Judge:\n    def strict(*, answer, reference, prompt):\n        return 0\n"
        "number = 3\n"
    )
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    return tmp_path


def test_a_file_beside_the_search_is_found_and_kept_to_itself(own: Path) -> None:
    spec = absolute_metric("my_metrics:length", own)
    assert spec == f"{own / 'my_metrics.py'}:length"
    assert absolute_metric("my_metrics.py:length", own) == spec
    assert absolute_metric("my_metrics.py:length", own / ".." / own.name) == spec
    assert absolute_metric("os.path:exists", own) == "os.path:exists"  # an installed module
    assert absolute_metric("normalised_match", own) == "normalised_match"
    loaded = load_answer_metrics([spec, f"{own}/my_metrics.py:Judge.strict", "nll"])
    assert list(loaded) == ["length", "strict"]
    assert loaded["length"](answer="four", reference="", prompt="") == 4
    assert "my_metrics" not in sys.modules


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such_module_xyz:f", "cannot be imported (ModuleNotFoundError"),
        ("{own}/broken.py:f", "cannot be imported (ZeroDivisionError"),
        ("{own}/leaving.py:f", "cannot be imported (SystemExit"),
        ("{own}/none.py:f", "cannot be imported (FileNotFoundError"),
        ("{own}/my_metrics.py:f", "has no function 'f'"),
        ("{own}/my_metrics.py:number", "has no function 'number'"),
        ("f1", "is no metric: write exact_match"),
        ("my:a b", "is no metric"),
        (":f", "is no metric"),
    ],
)
def test_a_metric_that_cannot_be_loaded(own: Path, spec: str, words: str) -> None:
    with pytest.raises(TaskError) as caught:
        load_answer_metrics([spec.format(own=own)])
    assert words in str(caught.value)


def score(value: Any) -> float:
    def metric(*, answer: str, reference: str, prompt: str) -> Any:
        return value

    return judge("m", metric, "x.jsonl row 3", answer="a", reference="b", prompt="c")


@pytest.mark.parametrize("value", [True, 1, 1.0, np.float32(1), np.int64(1), torch.tensor(1.0)])
def test_numbers_of_all_kinds(value: Any) -> None:
    assert score(value) == 1.0


@pytest.mark.parametrize(
    "value", [None, "1", float("nan"), float("inf"), [1.0], np.zeros(2), torch.zeros(2), 10**400]
)
def test_what_is_no_finite_number_is_refused_with_its_row(value: Any) -> None:
    with pytest.raises(TaskError, match=r"metric m returned .* at x.jsonl row 3, answer 'a'"):
        score(value)


def test_a_metric_that_raises_is_told_with_its_row() -> None:
    def metric(*, answer: str, reference: str, prompt: str) -> float:
        return float(answer)

    with pytest.raises(TaskError, match=r"m raised ValueError: .* at r 3, answer ''") as caught:
        judge("m", metric, "r 3", answer="", reference="1", prompt="")
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_metric_that_ends_the_process_has_failed() -> None:
    def metric(*, answer: str, reference: str, prompt: str) -> float:
        sys.exit(2)  # as argparse does

    with pytest.raises(TaskError, match=r"m raised SystemExit: 2 at r 3, answer 'a'"):
        judge("m", metric, "r 3", answer="a", reference="1", prompt="")
