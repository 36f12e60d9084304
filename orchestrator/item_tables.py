"""Item scores on disk: Parquet, one line per member and item, from which all else follows.

member  strategy  seed  split  distance  item  exact_match  [another metric]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.files import write_atomic
from orchestrator.verdict import Scores
from trainable.data import TEST_SPLITS, Split, mean_by_distance
from trainable.item_scores import ItemScores
from trainable.metrics import EXACT_MATCH
from trainable.trial import TrialConfig

_COLUMNS = ("member", "strategy", "seed", "split", "distance", "item", EXACT_MATCH)


def item_table(
    uid: str, config: TrialConfig, split: Split, found: ItemScores, place: int
) -> pa.Table:
    """One member's items of a split; `place` is the member's among those scored together."""
    count = len(found.place_N)
    others = {name: values_MN[place] for name, values_MN in found.values_MN.items()}
    return pa.table(
        {
            "member": pa.array([uid] * count, pa.string()),
            "strategy": pa.array([config.strategy.short_name] * count, pa.string()),
            "seed": np.full(count, config.seed),
            "split": pa.array([split] * count, pa.string()),
            "distance": found.distance_N,
            "item": found.place_N,
            EXACT_MATCH: found.right_MN[place],
            **others,
        }
    )


def write_items(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables as one file; it appears whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables), sink)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, sink.getvalue().to_pybytes())


def read_items(path: Path) -> pa.Table:
    """Read what `write_items` wrote."""
    return pq.read_table(path)


def arm_scores(tables: Sequence[pa.Table]) -> Scores:
    """An arm's item scores, by split, from its members' tables in order."""
    found: dict[Split, ItemScores] = {}
    for split in TEST_SPLITS:
        parts = [table.filter(pc.equal(table["split"], split)) for table in tables]
        if len(parts[0]):
            found[split] = ItemScores(
                distance_N=parts[0]["distance"].to_numpy(),
                place_N=parts[0]["item"].to_numpy(),
                right_MN=_stacked(parts, EXACT_MATCH),
                values_MN={name: _stacked(parts, name) for name in _others(parts[0])},
            )
    return found


def member_metrics(table: pa.Table) -> dict[str, float]:
    """One member's test scores, named as a search names its own."""
    metrics: dict[str, float] = {}
    for split, scores in arm_scores([table]).items():
        columns = {EXACT_MATCH: scores.right_MN[0]}
        columns |= {name: values_MN[0] for name, values_MN in scores.values_MN.items()}
        rows = [
            (int(distance), {name: float(column[item]) for name, column in columns.items()})
            for item, distance in enumerate(scores.distance_N)
        ]
        metrics |= mean_by_distance(rows, split)
    return metrics


def _others(table: pa.Table) -> list[str]:
    return list(table.column_names[len(_COLUMNS) :])


def _stacked(parts: Sequence[pa.Table], name: str) -> Any:
    return np.stack([part[name].to_numpy() for part in parts])
