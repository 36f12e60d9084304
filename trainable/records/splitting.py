"""Which rows of a pool make which split.

A row's split follows from the hash of (seed, prompt): it depends neither on the order of the
rows nor on the others, and equal prompts never fall into two splits.

    hash in [0, 1)   |-- val --|-- test --|------------- train -------------|

The length rule takes rows longer than `above` out of the pool first: they are out of
distribution and never trained on. Their distance is how many times `above` fits into what is
left of the length once it is passed: 1 up to 2 · above, 2 up to 3 · above, … at most 4. val_ood
and test_ood share them in the proportion of val and test, except that the farthest distance,
where there are two or more, is test_ood's alone: a confirmation looks farther out than the search.
Prompts that stand in several rows go by the longest of them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from trainable.data import Ints, Split
from trainable.errors import TaskError

Measure = Literal["prompt_tokens", "response_tokens", "prompt_chars", "completion_chars"]
MEASURES: tuple[str, ...] = get_args(Measure)
FARTHEST = 4

Keys = npt.NDArray[np.uint64]
Places = dict[Split, tuple[Ints, Ints]]  # places in the pool, and their distances


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """What share of a pool is kept from training.

    Args:
        val: the share that the search is judged on.
        test: the share that a winner is confirmed on.
        seed: decides which rows.
    """

    val: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.val < 1 and 0 <= self.test < 1 and self.val + self.test < 1):
            raise TaskError(
                f"task.split: val={self.val} and test={self.test} must be shares from 0 that "
                "leave something to train on"
            )


@dataclass(frozen=True, kw_only=True)
class OodRule:
    """Which rows lie out of distribution.

    Args:
        by: what is measured: `prompt_tokens` (BOS included), `response_tokens` (EOS included),
            `prompt_chars` or `completion_chars`.
        above: the longest that is still in distribution.
    """

    by: Measure
    above: int

    def __post_init__(self) -> None:
        if self.by not in MEASURES:
            raise TaskError(f"task.ood.by={self.by!r} is unknown; one of {', '.join(MEASURES)}")
        if self.above < 1:
            raise TaskError(f"task.ood.above={self.above} must be at least 1")


def split_pool(
    keys_N: Keys, measures_N: Ints | None, rule: SplitRule, above: int, made: Collection[Split]
) -> Places:
    """Divide a pool of rows.

    Args:
        keys_N: what equal prompts share.
        measures_N: the lengths that the length rule goes by; None where there is no rule.
        above: the rule's bound.
        made: the splits that come from the pool, `train` among them.

    Returns:
        For each of `made`, the places of its rows in ascending order, and their distances. A split
        may be empty.
    """
    distances_N = np.zeros(len(keys_N), dtype=np.int64)
    if measures_N is not None:
        longest_N = _of_group(keys_N, measures_N)
        distances_N = np.clip(-(-longest_N // above) - 1, 0, FARTHEST)
    far_N = distances_N > 0
    share_N = hash_share(keys_N, rule.seed)
    val, test = (rule.val * ("val_id" in made), rule.test * ("test_id" in made))
    chosen = {
        "val_id": ~far_N & (share_N < val),
        "test_id": ~far_N & (share_N >= val) & (share_N < val + test),
        "train": ~far_N & (share_N >= val + test),
        **_far_splits(distances_N, share_N, rule, made),
    }
    places: Places = {}
    for split in made:
        places_N = np.flatnonzero(chosen[split])
        places[split] = (places_N, distances_N[places_N])
    return places


def hash_share(keys_N: Keys, seed: int) -> npt.NDArray[np.float64]:
    """[N], numbers in [0, 1), spread evenly, the same on every machine (splitmix64)."""
    mixed = _mix(keys_N ^ _mix(np.array([seed], dtype=np.uint64)))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _far_splits(
    distances_N: Ints,
    share_N: npt.NDArray[np.float64],
    rule: SplitRule,
    made: Collection[Split],
) -> dict[str, npt.NDArray[np.bool_]]:
    far_N = distances_N > 0
    if "test_ood" not in made:
        return {"val_ood": far_N}
    if "val_ood" not in made:
        return {"test_ood": far_N}
    val_N = far_N & (share_N < rule.val / (rule.val + rule.test))
    known = np.unique(distances_N[far_N])
    if len(known) > 1:
        val_N &= distances_N < known[-1]
    return {"val_ood": val_N, "test_ood": far_N & ~val_N}


def _of_group(keys_N: Keys, measures_N: Ints) -> Ints:
    """[N], the greatest measure of all rows with the same key."""
    _, group_N = np.unique(keys_N, return_inverse=True)
    most = np.zeros(int(group_N.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(most, group_N, measures_N)
    return most[group_N]


def _mix(values: Keys) -> Keys:
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
