"""What travels from the driver to a thin trial and on to an engine, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trainable.data import LongRows


@dataclass(frozen=True)
class DataSource:
    """All that an engine needs to read a search's rows.

    Args:
        task: the options of `build_task`: the search file's `task` section, and for a task that
            reads files the digests of their contents.
        seed: the search's data seed.
        max_tokens: the longest row allowed, latents included, or None.
        long_rows: what becomes of longer ones: `refuse` or `drop`.
        cache: where encoded rows are kept.
    """

    task: dict[str, Any]
    seed: int
    max_tokens: int | None
    long_rows: LongRows
    cache: str


@dataclass(frozen=True)
class Assignment:
    """All that a thin trial and an engine need to know of one trial.

    Args:
        uid: the trial's.
        number: its number in the ledger.
        attempt: counted from 1.
        config: `TrialConfig.to_dict()`.
        data: a `DataSource` as plain data.
        start_step: where it goes on from.
        reported: whether its report at that step is known, so that the next rung comes.
        rungs: the steps at which it reports, ascending; the last is the full budget.
        splits: what it is scored on.
        engine: the engine's name.
        folder: where its states are saved.
        stream_seed: decides its order of examples; None for the one that all trials of a search
            share.
        times_decoding: whether the search goes by the time of decoding.
    """

    uid: str
    number: int
    attempt: int
    config: dict[str, Any]
    data: dict[str, Any]
    start_step: int
    rungs: list[int]
    splits: list[str]
    engine: str
    folder: str
    stream_seed: int | None = None
    reported: bool = False
    times_decoding: bool = False


@dataclass(frozen=True)
class TrialReport:
    """What a thin trial tells the driver; Tune flattens plain dicts, and this stays whole.

    Args:
        uid: the trial's.
        number: its number in the ledger.
        attempt: counted from 1.
        step: optimiser steps done; its state at this step is saved.
        metrics: name to value; empty for a trial that was paused or failed.
        curve: (step, training loss) since the report before.
        paused: whether it was halted short of its rung.
        failed: why it cannot go on, or None.
        failure: what kind of failure that is, a `FailureKind`.
        problems: why it did not go on from the state that was asked for, one line each.
        disk_full: why its state was not saved, or None; `step` is then the last one that was.
    """

    uid: str
    number: int
    attempt: int
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    paused: bool = False
    failed: str | None = None
    failure: str = "bug"
    problems: list[str] = field(default_factory=list)
    disk_full: str | None = None
