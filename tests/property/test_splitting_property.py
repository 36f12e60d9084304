"""Any pool, any rule: the splits divide it, whatever the order of its rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainable.data import Split
from trainable.records.splitting import SplitRule, split_pool

MADE: st.SearchStrategy[tuple[Split, ...]] = st.sampled_from(
    [
        ("train", "val_id"),
        ("train", "val_id", "test_id"),
        ("train", "val_id", "val_ood"),
        ("train", "val_id", "val_ood", "test_id", "test_ood"),
        ("train", "test_id", "test_ood"),
    ]
)
SHARES = st.floats(0.01, 0.49)
# Few keys, so that prompts repeat.
POOLS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=1, max_size=80)


@given(POOLS, MADE, SHARES, SHARES, st.integers(0, 2**32 - 1), st.integers(1, 70), st.randoms())
def test_splits_are_a_partition_that_no_order_changes(
    pool: list[tuple[int, int]],
    made: tuple[Split, ...],
    val: float,
    test: float,
    seed: int,
    above: int,
    dice: object,
) -> None:
    rule = SplitRule(val=val, test=test, seed=seed)
    far = "val_ood" in made or "test_ood" in made

    def split(rows: list[tuple[int, int]]) -> dict[tuple[int, int], tuple[str, int]]:
        """Each row's split and distance."""
        keys_N = np.array([key for key, _ in rows], dtype=np.uint64) * np.uint64(2**57 + 12345)
        measures_N = np.array([length for _, length in rows]) if far else None
        places = split_pool(keys_N, measures_N, rule, above, made)
        assert set(places) == set(made)
        every = np.concatenate([found for found, _ in places.values()])
        assert sorted(every.tolist()) == list(range(len(rows)))  # a partition
        return {
            rows[place]: (name, int(distance))
            for name, (found, distances) in places.items()
            for place, distance in zip(found, distances, strict=True)
        }

    first = split(pool)
    for key in {key for key, _ in pool}:  # equal prompts stay together
        assert len({found for (other, _), found in first.items() if other == key}) == 1
    shuffled = list(pool)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert split(shuffled) == first
