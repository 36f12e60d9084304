"""A confirmation for people: one table, the verdict, what limits it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from orchestrator.confirmation_record import ArmRecord, ConfirmationRecord
from orchestrator.console import print_line
from orchestrator.verdict_words import metric_of


def print_confirmation(console: Console, record: ConfirmationRecord) -> None:
    """Every configuration's confirmed scores beside its score in the search, then the words."""
    metrics = [
        score.metric
        for score in next((arm.scores for arm in record.arms if arm.scores), ())
        if metric_of(score.metric) == record.judged
        and (score.distance is not None or score.metric.startswith("test_id"))
    ]
    judged = record.judged.replace("_", " ")
    table = Table(title=f"confirmed: {judged}, {record.seeds} seeds", title_justify="left")
    table.add_column("strategy", overflow="fold")
    table.add_column("role", overflow="fold")
    table.add_column("search", justify="right", min_width=5)
    for metric in metrics:
        table.add_column(_heading(metric), justify="right", min_width=7, overflow="fold")
    table.add_column("latents/row", justify="right", overflow="fold")
    for arm in record.arms:
        table.add_row(
            arm.strategy,
            _role(arm, record),
            "-" if arm.search_score is None else f"{arm.search_score:.3f}",
            *(_score(arm, metric) for metric in metrics),
            f"{arm.latents_per_row:.1f}",
        )
    console.print(table)
    for line in (*record.verdict, *record.notes):
        print_line(console, line)


def _role(arm: ArmRecord, record: ConfirmationRecord) -> str:
    parts = [] if arm.rank is None else [f"no. {arm.rank}"]
    parts += [] if arm.control is None else [f"control: {arm.control}"]
    parts += ["left out"] if arm.left_out is not None else []
    parts += ["champion"] if arm.key == record.champion else []
    return ", ".join(parts)


def _heading(metric: str) -> str:
    distance = metric.rpartition("/")[2]
    return f"at {distance}" if distance.isdecimal() else "ID"


def _score(arm: ArmRecord, metric: str) -> str:
    score = arm.score(metric)
    return "-" if score is None else f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]"
