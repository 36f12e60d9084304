"""How many slots a step puts through the model, and how many of them are rows and not padding.

Counted from the same rows, layouts and micro-batches that the engine makes of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.workload import stream_rows
from trainable.batch import PreparedRow, prepare
from trainable.data import EncodedTask
from trainable.engine import Engine
from trainable.trial import TrialConfig


@dataclass(frozen=True)
class Slots:
    """Counts of a step, or of many.

    Args:
        useful: slots of rows, latents included.
        executed: these and the padding of their micro-batches.
        labelled: slots whose logits are computed.
        passes: micro-batches.
    """

    useful: int = 0
    executed: int = 0
    labelled: int = 0
    passes: int = 0

    def __add__(self, other: Slots) -> Slots:
        return Slots(
            self.useful + other.useful,
            self.executed + other.executed,
            self.labelled + other.labelled,
            self.passes + other.passes,
        )


def rows_of_step(
    engine: Engine, data: EncodedTask, step_of: Mapping[int, int], configs: Sequence[TrialConfig]
) -> list[PreparedRow]:
    """The laid-out rows of one step of some trials.

    Args:
        step_of: place among `configs` to the steps that the trial has done.
    """
    rows = data.rows("train")
    return [
        prepare(owner, rows[index], engine.resolve(configs[place].strategy))
        for owner, (place, step) in enumerate(step_of.items())
        for index in stream_rows(data, step, configs[place].optim.batch_rows)
    ]


def count(batches: Iterable[Sequence[PreparedRow]]) -> Slots:
    """Count micro-batches, such as `Engine.batches` makes of a step's rows."""
    found = Slots()
    for batch in batches:
        found += Slots(
            useful=sum(map(len, batch)),
            executed=len(batch) * max(map(len, batch)),
            labelled=sum(len(row.response) for row in batch),
            passes=1,
        )
    return found
