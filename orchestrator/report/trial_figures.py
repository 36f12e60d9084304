"""Figures with one mark per trial: scores, cost, curves, and when each was cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.ledger import Role, TrialStatus
from orchestrator.report.drawing import (
    BEST,
    CUT,
    as_svg,
    colour,
    legend,
    new_figure,
    plain_ticks,
    short,
    style,
)
from orchestrator.report.material import LOSS_POINTS, Material, Story
from orchestrator.results import EXTRA_TOKENS, IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, TrialRecord
from trainable.metrics import goodness

if TYPE_CHECKING:  # a second that other verbs need not wait
    from matplotlib.axes import Axes

_NAMED = 4  # trials whose names a figure shows, baselines aside
_COSTS = (0, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)  # ticks, in %
_TICKED = 60  # trials on a timeline, beyond which their numbers are left out


def scatter(material: Material) -> str | None:
    """In- against out-of-distribution score; None where both were never measured together."""
    trials = _having(material, IN_DISTRIBUTION, OUT_OF_DISTRIBUTION)
    if not trials:
        return None
    with style():
        figure, axes = new_figure(7.5, 5.2)
        ax = axes[0, 0]
        ax.axline((0, 0), (1, 1), color="#bbbbbb", linestyle="--", linewidth=1, zorder=0)
        _points(ax, material, trials, IN_DISTRIBUTION, OUT_OF_DISTRIBUTION)
        ax.set_xlabel(f"in distribution: {IN_DISTRIBUTION}")
        ax.set_ylabel(f"out of distribution: {OUT_OF_DISTRIBUTION}")
        ax.set_xlim(-0.04, 1.04)
        legend(ax)
        return as_svg(figure, "scatter")


def cost(material: Material) -> str | None:
    """Objective against extra tokens, with the front; None where nothing has both."""
    objective = material.result.objective
    trials = _having(material, EXTRA_TOKENS, objective)
    if not trials:
        return None
    front = pareto_front([t for t in trials if t.status is TrialStatus.COMPLETE], objective)
    with style():
        figure, axes = new_figure(7.5, 5.2)
        ax = axes[0, 0]
        x = [trial.metrics[EXTRA_TOKENS] for trial in front]
        y = [trial.metrics[objective] for trial in front]
        ax.plot(x, y, drawstyle="steps-post", color=BEST, linewidth=1.2, zorder=0)
        _points(ax, material, trials, EXTRA_TOKENS, objective, named=front)
        ax.set_xlabel("extra tokens, % (symmetric log)")
        ax.set_xscale("symlog", linthresh=5)
        dearest = max(trial.metrics[EXTRA_TOKENS] for trial in trials)
        plain_ticks(ax.xaxis, [tick for tick in _COSTS if tick <= max(5, 1.5 * dearest)])
        ax.set_xlim(-1, max(6, 1.5 * dearest))
        ax.set_ylabel(objective)
        legend(ax)
        return as_svg(figure, "cost")


def pareto_front(trials: Sequence[TrialRecord], objective: str) -> list[TrialRecord]:
    """The trials that no other beats in score without costing more, cheapest first."""
    front: list[TrialRecord] = []
    for trial in sorted(
        trials,
        key=lambda t: (t.metrics[EXTRA_TOKENS], -goodness(objective, t.metrics[objective])),
    ):
        score = goodness(objective, trial.metrics[objective])
        if not front or score > goodness(objective, front[-1].metrics[objective]):
            front.append(trial)
    return front


def learning_curves(material: Material) -> str | None:
    """The objective at each rung, and the training loss; None before any report."""
    told = [trial for trial in material.result.trials if trial.uid in material.stories]
    if not told:
        return None
    objective = material.result.objective
    with style():
        figure, axes = new_figure(10, 4.4, columns=2)
        left, right = axes[0]
        for trial in told:
            thick: dict[str, Any] = {"color": BEST, "linewidth": 2.2, "zorder": 3}
            look = thick if trial.uid == material.result.best else {"color": colour(trial)}
            curve = material.curve(trial.uid, objective)
            left.plot(*_columns(curve), marker="o", markersize=3, **{"linewidth": 0.9} | look)
            losses = sorted(material.stories[trial.uid].losses.items())
            thin = losses[:: max(1, -(-len(losses) // LOSS_POINTS))]
            right.plot(*_columns(thin), **{"linewidth": 0.7} | look)
        for ax, label in ((left, objective), (right, "train/loss")):
            ax.set_xlabel("optimiser steps")
            ax.set_ylabel(label)
        if any(loss > 0 for story in material.stories.values() for loss in story.losses.values()):
            right.set_yscale("log")
            plain_ticks(right.yaxis)
        legend(left)
        return as_svg(figure, "curves")


def timeline(material: Material) -> str | None:
    """When each trial ran and how it ended; None before any began."""
    told = [t for t in material.result.trials if t.uid in material.stories]
    if not told:
        return None
    with style():
        figure, axes = new_figure(10, 1.2 + min(9.0, max(1.5, 0.17 * len(told))))
        ax = axes[0, 0]
        for row, trial in enumerate(told):
            best = trial.uid == material.result.best
            _bar(ax, row, trial, material.stories[trial.uid], best=best)
        ticks = range(len(told)) if len(told) <= _TICKED else range(0, len(told), 10)
        ax.set_yticks(ticks, labels=[str(told[row].number) for row in ticks], fontsize=7)
        ax.invert_yaxis()
        ax.set_ylabel("trial")
        ax.set_xlabel("minutes since the search began (pauses included)")
        legend(ax, best=False)
        return as_svg(figure, "timeline")


def _bar(ax: Axes, row: int, trial: TrialRecord, story: Story, *, best: bool) -> None:
    for attempt in story.attempts:
        length = max(attempt.ended_s - attempt.began_s, 0.5) / 60
        ax.barh(row, length, left=attempt.began_s / 60, height=0.7, color=colour(trial))
    if story.attempts:
        end = story.attempts[-1].ended_s / 60
        mark = "" if trial.status is TrialStatus.COMPLETE else f", {trial.status}"
        text = f" {trial.step} steps{mark}{', best' if best else ''}"
        ax.text(end, row, text, va="center", fontsize=6)


def _points(
    ax: Axes,
    material: Material,
    trials: Sequence[TrialRecord],
    x: str,
    y: str,
    named: Sequence[TrialRecord] = (),
) -> None:
    best = material.result.best
    for trial in trials:
        is_best = trial.uid == best
        ax.scatter(
            trial.metrics[x],
            trial.metrics[y],
            marker="*" if is_best else "o",
            s=170 if is_best else 30,
            color=BEST if is_best else colour(trial),
            alpha=0.55 if colour(trial) == CUT else 0.9,
            zorder=3 if is_best else 2,
        )
    chosen = [*named, *material.result.top(_NAMED)]
    chosen += [trial for trial in trials if trial.role is Role.BASELINE]
    _name_points(ax, [trial for trial in chosen if x in trial.metrics and y in trial.metrics], x, y)


def _name_points(ax: Axes, trials: Sequence[TrialRecord], x: str, y: str) -> None:
    """Names beside points, towards the middle; of points in one place the first alone."""
    right_of = 0.5 * max((trial.metrics[x] for trial in trials), default=0.0)
    named: dict[tuple[float, float], TrialRecord] = {}
    for trial in trials:
        named.setdefault((round(trial.metrics[x], 2), round(trial.metrics[y], 2)), trial)
    for trial in named.values():
        leftwards = trial.metrics[x] > right_of
        ax.annotate(
            f"{trial.number}: {short(trial.strategy)}",
            (trial.metrics[x], trial.metrics[y]),
            ha="right" if leftwards else "left",
            xytext=(-7 if leftwards else 7, 4),
            textcoords="offset points",
            fontsize=7,
        )


def _having(material: Material, *metrics: str) -> list[TrialRecord]:
    return [t for t in material.result.trials if all(name in t.metrics for name in metrics)]


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]
