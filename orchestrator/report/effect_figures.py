"""Figures of what the axes of a search do: their importance, and each one's marginal effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.report.drawing import COMPLETE, CUT, as_svg, new_figure, short, style
from orchestrator.report.effects import Effects, Level

if TYPE_CHECKING:  # a second that other verbs need not wait
    from matplotlib.axes import Axes

_MOST_AXES = 16


def importance_bars(effects: Sequence[Effects]) -> str | None:
    """Importance of each axis, one panel per way of looking; None where no way has enough."""
    shown = [found for found in effects if found.importance]
    if not shown:
        return None
    longest = max(len(found.importance) for found in shown)
    with style():
        figure, axes = new_figure(10, 1.1 + 0.3 * longest, columns=len(shown))
        for ax, found in zip(axes[0], shown, strict=True):
            names = list(found.importance)[:_MOST_AXES]
            ax.barh(
                range(len(names)), [100 * found.importance[name] for name in names], color=COMPLETE
            )
            ax.set_yticks(range(len(names)), labels=[short(name) for name in names])
            ax.invert_yaxis()
            ax.set_title(f"{found.title}\n{found.metric}, {found.trials} trials", fontsize=9)
            ax.set_xlabel("share of importance, %")
        return as_svg(figure, "importance")


def marginal_effects(effects: Sequence[Effects]) -> str | None:
    """Mean score at each value of each axis; None where no axis has two values."""
    ways = [found for found in effects if found.axes]
    names = _names_by_importance(ways)
    if not names:
        return None
    deepest = {n: max(len(w.axes.get(n, ())) for w in ways) for n in names}
    with style():
        height = sum(0.75 + 0.24 * deepest[name] for name in names)
        figure, axes = new_figure(10, height, rows=len(names), columns=len(ways))
        grid = axes[0, 0].get_gridspec()
        grid.set_height_ratios([0.75 + 0.24 * deepest[name] for name in names])
        for row, name in enumerate(names):
            for column, found in enumerate(ways):
                ax = axes[row, column]
                if row:
                    ax.sharex(axes[0, column])
                _levels(ax, found.axes.get(name, []))
                if row == 0:
                    title = f"{found.title}\n{found.metric}, {found.trials} trials"
                    ax.set_title(f"{title}\n{short(name)}", fontsize=9, loc="left")
                else:
                    ax.set_title(short(name), fontsize=9, loc="left")
        return as_svg(figure, "effects")


def _names_by_importance(ways: Sequence[Effects]) -> list[str]:
    known: dict[str, float] = {}
    for found in ways:
        for name in found.axes:
            known[name] = max(known.get(name, 0.0), found.importance.get(name, 0.0))
    return sorted(known, key=lambda name: -known[name])[:_MOST_AXES]


def _levels(ax: Axes, levels: Sequence[Level]) -> None:
    if not levels:
        ax.text(0.02, 0.5, "fewer than two values here", transform=ax.transAxes, color="#666666")
        ax.set_axis_off()
        return
    random = np.random.default_rng(0)
    for row, level in enumerate(levels):
        jitter = random.uniform(-0.14, 0.14, len(level.scores))
        ax.scatter(level.scores, row + jitter, s=9, color=CUT, alpha=0.6, zorder=1)
        if level.low is not None and level.high is not None:
            ax.plot([level.low, level.high], [row, row], color=COMPLETE, linewidth=2)
        ax.plot(level.mean, row, "D", color=COMPLETE, markersize=5)
    labels = [f"{short(level.label, 22)}  (n={len(level.scores)})" for level in levels]
    ax.set_yticks(range(len(levels)), labels=labels, fontsize=8)
    ax.set_ylim(len(levels) - 0.5, -0.5)
