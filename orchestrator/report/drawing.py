"""Figures as SVG inside a page: text stays text, nothing is fetched, nothing runs.

    blue    ran to the full budget        grey    cut early, stopped, or still running
    orange  a baseline                    star    the best

The colours are Okabe and Ito's, which colour-blind eyes keep apart.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.ledger import Role, TrialStatus
from orchestrator.results import TrialRecord

if TYPE_CHECKING:  # a second that other verbs need not wait
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COMPLETE, CUT, BASELINE, BEST = "#0072b2", "#999999", "#d55e00", "#009e73"
MOST_LABEL = 34  # characters of a label
_PROLOG = re.compile(r"^.*?(?=<svg)", flags=re.DOTALL)
_IDS = re.compile(r'(?<= id=")(?=[A-Za-z.]+[0-9]*[A-Za-z]*_[0-9]+")')  # axes_1, line2d_7
_METADATA = re.compile(r"\s*<metadata>.*?</metadata>", flags=re.DOTALL)


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, for as long as they are drawn."""
    from matplotlib import rc_context

    with rc_context(
        {
            "svg.fonttype": "none",
            "text.parse_math": False,  # a name with a dollar sign is no formula
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
        }
    ):
        yield


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure that no window knows of, and its axes as an array of arrays. In inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def as_svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element; `name` keeps its ids apart from other figures'."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # measured, not drawn
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = _METADATA.sub("", _PROLOG.sub("", buffer.getvalue()))
    return _IDS.sub(f"{name}-", svg)


def plain_ticks(axis: Axis, at: Sequence[float] | None = None) -> None:
    """Ticks in plain numbers, also on a logarithmic axis, whose own would be formulas.

    Args:
        at: where, and nowhere else; default where they are.
    """
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if at is not None:
        axis.set_ticks(at)
        axis.set_ticks([], minor=True)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def colour(trial: TrialRecord) -> str:
    """What stands for a trial's role and end."""
    if trial.role is Role.BASELINE:
        return BASELINE
    return COMPLETE if trial.status is TrialStatus.COMPLETE else CUT


def legend(ax: Axes, *, best: bool = True) -> None:
    """What the colours mean."""
    entries = [(COMPLETE, "o", "full budget"), (CUT, "o", "cut early or not ended")]
    entries += [(BASELINE, "o", "baseline")] + [(BEST, "*", "best")] * best
    for shade, marker, label in entries:
        ax.plot([], [], marker, color=shade, label=label)
    ax.legend(fontsize=8)


def short(text: str, most: int = MOST_LABEL) -> str:
    """A label of one line: control characters told, the middle of a long one left out."""
    plain = "".join(
        c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode()
        for c in text
    )
    return plain if len(plain) <= most else f"{plain[: most // 2]}…{plain[-most // 2 + 1 :]}"
