"""Splits made from a pool: shares, the length rule, and the farthest distance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainable.data import Split
from trainable.errors import TaskError
from trainable.records.splitting import (
    FARTHEST,
    OodRule,
    SplitRule,
    _mix,
    hash_share,
    split_pool,
)

ALL: tuple[Split, ...] = ("train", "val_id", "val_ood", "test_id", "test_ood")


def keys(count: int) -> Any:
    return np.random.default_rng(0).integers(2**64, size=count, dtype=np.uint64)


def sizes(places: Any) -> dict[str, int]:
    return {split: len(found) for split, (found, _) in places.items()}


def test_shares_are_about_what_was_asked() -> None:
    rule = SplitRule(val=0.1, test=0.2)
    found = sizes(split_pool(keys(20_000), None, rule, 1, ("train", "val_id", "test_id")))
    assert found == {
        "train": pytest.approx(14_000, rel=0.03),
        "val_id": pytest.approx(2_000, rel=0.1),
        "test_id": pytest.approx(4_000, rel=0.1),
    }


def test_what_has_files_of_its_own_takes_nothing_from_the_pool() -> None:
    made: tuple[Split, ...] = ("train", "test_id")
    found = sizes(split_pool(keys(1000), None, SplitRule(val=0.5, test=0.1), 1, made))
    assert found["train"] == pytest.approx(900, abs=30)
    assert sum(found.values()) == 1000


def test_the_numbers_are_spread_evenly_and_the_same_everywhere() -> None:
    share_N = hash_share(keys(100_000), seed=0)
    assert 0 <= share_N.min() < share_N.max() < 1
    counts, _ = np.histogram(share_N, bins=10, range=(0, 1))
    assert np.abs(counts - 10_000).max() < 400
    assert int(_mix(np.array([0], dtype=np.uint64))[0]) == 0xE220A8397B1DCDAF  # as published
    assert hash_share(np.array([1], dtype=np.uint64), seed=7)[0] == 0.23928447285727472


def test_long_rows_are_never_trained_on() -> None:
    measures_N = np.arange(1000) % 50 + 1  # 1 to 50
    places = split_pool(keys(1000), measures_N, SplitRule(), 20, ALL)
    near: tuple[Split, ...] = ("train", "val_id", "test_id")
    for split in near:
        found, distances = places[split]
        assert measures_N[found].max() <= 20
        assert set(distances) == {0}
    assert measures_N[places["val_ood"][0]].min() > 20
    assert measures_N[places["test_ood"][0]].min() > 20
    assert sum(sizes(places).values()) == 1000


@pytest.mark.parametrize(
    ("measure", "distance"),
    [(0, 0), (1, 0), (20, 0), (21, 1), (40, 1), (41, 2), (80, 3), (81, 4), (100, 4), (9999, 4)],
)
def test_the_distance_is_how_many_times_the_bound_fits(measure: int, distance: int) -> None:
    measures_N = np.array([measure] * 50)
    places = split_pool(keys(50), measures_N, SplitRule(), 20, ALL)
    assert {d for _, distances in places.values() for d in distances} == {distance}
    assert distance <= FARTHEST


def test_the_farthest_distance_is_for_confirmation_alone() -> None:
    measures_N = np.repeat([10, 30, 50], 200)
    places = split_pool(keys(600), measures_N, SplitRule(), 20, ALL)
    assert set(places["val_ood"][1]) == {1}
    assert set(places["test_ood"][1]) == {1, 2}
    near = split_pool(keys(600), np.minimum(measures_N, 40), SplitRule(), 20, ALL)
    assert set(near["val_ood"][1]) == set(near["test_ood"][1]) == {1}  # there is no other


@pytest.mark.parametrize("alone", ["val_ood", "test_ood"])
def test_one_split_out_of_distribution_takes_all_of_it(alone: Split) -> None:
    measures_N = np.repeat([10, 30, 50], 20)
    made: tuple[Split, ...] = ("train", "val_id", alone)
    places = split_pool(keys(60), measures_N, SplitRule(), 20, made)
    assert len(places[alone][0]) == 40


def test_a_prompt_of_several_rows_goes_by_the_longest() -> None:
    keys_N = np.array([5, 5, 6, 6], dtype=np.uint64)
    places = split_pool(
        keys_N, np.array([3, 90, 3, 4]), SplitRule(val=0.5), 20, ("train", "val_ood")
    )
    assert places["val_ood"][0].tolist() == [0, 1]
    assert places["val_ood"][1].tolist() == [4, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"val": 0.5, "test": 0.5}, "leave something to train on"),
        ({"val": -0.1}, "task.split: val=-0.1"),
        ({"val": 1.0, "test": 0.0}, "task.split: val=1.0"),
    ],
)
def test_wrong_shares_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        SplitRule(**options)  # type: ignore[arg-type]


def test_wrong_length_rules_are_refused() -> None:
    with pytest.raises(TaskError, match=r"task\.ood\.by='words' is unknown; one of prompt_tokens"):
        OodRule(by="words", above=3)  # type: ignore[arg-type]
    with pytest.raises(TaskError, match=r"task\.ood\.above=0"):
        OodRule(by="prompt_chars", above=0)
