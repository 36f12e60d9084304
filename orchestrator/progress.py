"""Show a running search: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from orchestrator.console import print_line
from orchestrator.estimate import estimate_lines
from orchestrator.ledger import LedgerTrial, TrialStatus
from orchestrator.record import Record
from orchestrator.results import DataRecord, Estimate
from trainable.metrics import goodness


class Standing(Record):
    """How far a running search is.

    Args:
        done: trials that have ended, in all runs.
        total: trials in all, baselines included.
        running: trials at work.
        best: the best score of the objective so far, of trials that ran to the full budget.
        strategy: the one that has it.
    """

    done: int
    total: int
    running: int
    objective: str
    best: float | None = None
    strategy: str | None = None


class SearchProgress:
    """A watcher that tells a person how a search goes.

    Args:
        console: where to.
        total: trials in all, baselines included.
        objective: the metric to show.
        ask: whether to go on with a search that is new; raises for a no. None asks nobody.
    """

    def __init__(
        self,
        console: Console,
        total: int,
        objective: str,
        ask: Callable[[], None] | None = None,
    ) -> None:
        self._ask = ask
        self._console = console
        self._total = total
        self._objective = objective
        self._began = time.monotonic()
        self._done = 0
        self._done_before = 0
        self._running: set[int] = set()
        self._best: tuple[float, str] | None = None
        self._bar = Progress(
            TextColumn("trials"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, detail="starting")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    @property
    def standing(self) -> Standing:
        """How far the search is."""
        best, strategy = self._best or (None, None)
        return Standing(
            done=self._done,
            total=self._total,
            running=len(self._running),
            objective=self._objective,
            best=best,
            strategy=strategy,
        )

    def data_read(self, data: DataRecord) -> None:
        """Say what is known of a person's own rows."""
        for line in data_lines(data):
            print_line(self._console, line)

    def planned(self, found: Estimate, warnings: Sequence[str], *, going_on: bool) -> None:
        """Show what the search will cost, and ask where somebody can answer."""
        for line in [*estimate_lines(found), *(f"warning: {line}" for line in warnings)]:
            print_line(self._console, line)
        if self._ask is not None and not going_on:
            self._bar.stop()  # a live line and a question do not share a terminal
            self._ask()
            self._bar.start()

    def search_opened(self, trials: Sequence[LedgerTrial]) -> None:
        """Count what earlier runs finished."""
        open_ = (TrialStatus.RUNNING, TrialStatus.INFEASIBLE)  # the latter are none of the total
        ended = [trial for trial in trials if trial.status not in open_]
        self._done = self._done_before = len(ended)
        for trial in ended:
            self._note_best(trial, trial.status)
        self._update()

    def trial_started(self, trial: LedgerTrial) -> None:
        """A trial begins, or goes on."""
        self._running.add(trial.number)
        self._update()

    def trial_reported(self, trial: LedgerTrial, status: TrialStatus) -> None:
        """A trial has reached a rung."""
        name, score = trial.config.strategy.short_name, trial.metrics.get(self._objective)
        if status is not TrialStatus.RUNNING:
            self._running.discard(trial.number)
            self._done += 1
        self._note_best(trial, status)
        self._update()
        if not self._console.is_terminal and status is not TrialStatus.RUNNING:
            shown = "no score" if score is None else f"{self._objective} {score:.3f}"
            print_line(
                self._console,
                f"[{self._done}/{self._total}] trial {trial.number} {name}: {status} at step "
                f"{trial.step}, {shown}; {self._detail()}",
            )

    def _note_best(self, trial: LedgerTrial, status: TrialStatus) -> None:
        score = trial.metrics.get(self._objective)
        if status is TrialStatus.COMPLETE and score is not None:
            found = (score, trial.config.strategy.short_name)
            best = self._best or found
            self._best = max(best, found, key=lambda one: goodness(self._objective, one[0]))

    def _update(self) -> None:
        self._bar.update(self._task, completed=self._done, detail=self._detail())

    def _detail(self) -> str:
        best = "none yet" if self._best is None else f"{self._best[0]:.3f} {self._best[1]}"
        return f"{len(self._running)} running, best so far {best}, {self._time_left()}"

    def _time_left(self) -> str:
        done = self._done - self._done_before
        if done <= 0:
            return "time left unknown"
        left_s = (time.monotonic() - self._began) / done * (self._total - self._done)
        return f"about {left_s:.0f} s left"


def data_lines(data: DataRecord) -> list[str]:
    """Rows per split, how much of each stands in train as well, what was dropped, and notes."""
    lines = []
    if data.sha256:
        rows = ", ".join(f"{split} {count}" for split, count in data.rows.items())
        shared = ", ".join(
            f"{split} {overlap.prompts} ({overlap.rows} whole rows)"
            for split, overlap in data.overlap.items()
        )
        lines = [f"rows: {rows}", f"of them with a prompt that train has too: {shared}"]
    if data.dropped:
        dropped = ", ".join(f"{split} {count}" for split, count in data.dropped.items())
        lines.append(f"dropped as too long: {dropped}")
    return [*lines, *data.notes]
