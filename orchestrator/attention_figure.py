"""Attention shares as a figure.

    heatmap   mean over layers: verbal tokens across, sites down, colour = share of attention
    heatmaps  the same for each layer, small
    curves    per group: share against the distance to the latest site and to the one before
              it, and against the number of newer sites; dashed: uniform attention

Drawn on a canvas of its own, so that nobody's matplotlib backend changes. Colours are from
`viridis`, which colour-blind eyes and grey prints keep in order.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.attention_data import Subject, groups_met
from trainable.attention import AttentionShares, Means, View

if TYPE_CHECKING:  # a second that other verbs need not wait
    from matplotlib.axes import Axes

_DPI = 110
_MOST_LABELS = 160  # token labels along the x axis; beyond, every second one and so on
_MOST_SITES = 40  # site labels along the y axis
_MOST_DISTANCE = 40  # verbal tokens along a curve; the data has them all
_TICKS = (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # of a colour bar
_INVISIBLE = "#e8e8e8"
_SPACE, _NEWLINE, _TAB = "␣", "⏎", "⇥"


def draw(path: Path, shares: AttentionShares, subject: Subject) -> None:
    """Write the figure as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers, _, tokens, sites = shares.share_KHNS.shape
    groups = groups_met(shares)
    columns = 1 if layers == 1 else 2 if layers <= 8 else 4
    rows = -(-layers // columns)
    heights = [
        1.3 + min(8.0, max(1.2, 0.19 * sites)),
        0.4 + rows * (0.5 + min(3.0, max(0.7, 0.08 * sites))),
        0.4 + 2.9 * len(groups),
    ]
    width = float(np.clip(2.6 + 0.125 * tokens, 10, 2.6 + 0.125 * _MOST_LABELS))
    figure = Figure(figsize=(width, sum(heights) + 0.5), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    title = f"Where attention goes: {subject.strategy}, {subject.trial_uid}"
    figure.suptitle(title, fontsize=13, parse_math=False)
    parts: Any = figure.subfigures(3, 1, height_ratios=heights)
    _mean_heatmap(parts[0], shares, subject)
    _layer_heatmaps(parts[1], rows, columns, shares)
    _curves(parts[2].subplots(len(groups), 2, squeeze=False), shares, subject, groups)
    with warnings.catch_warnings():  # a script without glyphs here shows as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(path, format="png")


def _mean_heatmap(part: Any, shares: AttentionShares, subject: Subject) -> None:
    ax = part.subplots()
    share_NS = shares.share_KHNS.mean(axis=(0, 1))
    image = _heatmap(ax, share_NS, shares.distance_NS > 0, _scale(share_NS))
    ax.set_title("mean over layers and heads", fontsize=10, loc="left")
    _label_tokens(ax, subject)
    _label_sites(ax, shares, subject)
    _bar(part, image, ax)


def _layer_heatmaps(part: Any, rows: int, columns: int, shares: AttentionShares) -> None:
    axes = part.subplots(rows, columns, squeeze=False)
    share_KNS = shares.share_KHNS.mean(axis=1)
    scale = _scale(share_KNS)
    for layer, ax in enumerate(axes.flat):
        if layer >= len(share_KNS):
            ax.set_axis_off()
            continue
        image = _heatmap(ax, share_KNS[layer], shares.distance_NS > 0, scale)
        ax.set_title(f"layer {layer}, mean over heads", fontsize=9, loc="left")
        ax.tick_params(labelsize=7)
        ax.set_ylabel("site", fontsize=8)
        _whole_numbers(ax.yaxis)
        if layer + columns >= len(share_KNS):
            ax.set_xlabel("verbal token, by place", fontsize=8)
    _bar(part, image, axes)


def _scale(shares: Any) -> Any:
    """From 0 to the largest share, by its square root: what is little read differs, too."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0, vmax=max(float(shares.max()), 1e-6))


def _bar(part: Any, image: Any, axes: Any) -> None:
    bar = part.colorbar(image, ax=axes, pad=0.01, fraction=0.03, aspect=15)
    bar.set_label("share of attention (%)", fontsize=9)
    ticks = [tick for tick in _TICKS if tick <= image.norm.vmax]
    bar.set_ticks(ticks, labels=[f"{100 * tick:g}" for tick in ticks], fontsize=8)


def _heatmap(ax: Axes, share_NS: Any, seen_NS: Any, norm: Any) -> Any:
    ax.set_facecolor(_INVISIBLE)
    values_SN = np.ma.masked_array(share_NS, ~seen_NS).T
    return ax.imshow(values_SN, aspect="auto", interpolation="nearest", cmap="viridis", norm=norm)


def _label_tokens(ax: Axes, subject: Subject) -> None:
    count = len(subject.tokens)
    step = -(-count // _MOST_LABELS)
    places = range(0, count, step)
    labels = [shown(subject.tokens[place]) for place in places]
    size = 8 if count <= 120 else 7
    ax.set_xticks(places, labels=labels, fontsize=size, parse_math=False)
    for place, label in zip(places, ax.get_xticklabels(), strict=True):
        label.set_rotation(90 if len(label.get_text()) > 1 else 0)
        if place < subject.query_length:
            label.set_fontweight("bold")
    ax.set_xlabel(
        "verbal token that looks (bold: the query)    grey: the site does not stand there yet"
    )


def _label_sites(ax: Axes, shares: AttentionShares, subject: Subject) -> None:
    step = -(-len(shares.sites) // _MOST_SITES)
    places = range(0, len(shares.sites), step)
    labels = [_site_label(place, shares, subject) for place in places]
    ax.set_yticks(places, labels=labels, fontsize=8, parse_math=False)
    ax.set_ylabel("site that is looked at")


def _site_label(place: int, shares: AttentionShares, subject: Subject) -> str:
    site = shares.sites[place]
    return f"{place}: {_group_label(site.group, subject)}, before {site.before}"


def _group_label(group: int, subject: Subject) -> str:
    trigger = subject.triggers[group]
    if trigger is None or len(subject.triggers) > len(set(subject.triggers)):
        return f"group {group}"  # several groups of one trigger, or one of several
    return trigger


def _curves(axes: Any, shares: AttentionShares, subject: Subject, groups: Sequence[int]) -> None:
    for row, group in enumerate(groups):
        name = _group_label(group, subject)
        latest, previous = shares.by_distance(group, 0), shares.by_distance(group, 1)
        ax = axes[row, 0]
        _draw_view(ax, latest, 1, "-")
        _draw_view(ax, previous, 1, ":")
        longest = max(len(latest.pairs_W), len(previous.pairs_W))
        ax.set_xlim(0.5, min(longest, _MOST_DISTANCE) + 0.5)
        title = f"{name}: latest site; dotted: once a newer one stands"
        ax.set_title(title, fontsize=10, loc="left", parse_math=False)
        ax.set_xlabel("verbal tokens since the site (1: right behind it)")
        ax = axes[row, 1]
        _draw_view(ax, shares.by_newer(group), 0, "-")
        ax.set_title(f"{name}: all sites", fontsize=10, loc="left", parse_math=False)
        ax.set_xlabel("newer places with sites since (0: the latest)")
        for ax in axes[row]:
            ax.set_ylabel("share of attention (%)")
            ax.set_ylim(bottom=0)
            _whole_numbers(ax.xaxis)
            ax.grid(alpha=0.25)
    axes[0, 1].legend(fontsize=8, ncols=2, frameon=False)


def _draw_view(ax: Axes, view: View, first: int, style: str) -> None:
    """One line per layer, their mean in black, and the uniform yardstick dashed."""
    from matplotlib import colormaps

    at_W = np.arange(len(view.pairs_W)) + first
    layers = len(view.share_KW)
    shades = colormaps["viridis"](np.linspace(0.05, 0.85, layers))
    for layer, share_W in enumerate(view.share_KW):
        label = f"layer {layer}" if layers <= 8 or layer in (0, layers - 1) else None
        thin = 1.1 if layers <= 8 else 0.6
        _line(ax, at_W, share_W, style, color=shades[layer], label=label, linewidth=thin)
    _line(ax, at_W, _mean(view.share_KW), style, color="black", label="mean", linewidth=2.2)
    uniform_W = _mean(view.uniform_KW)
    _line(ax, at_W, uniform_W, "--", color="#d55e00", label="uniform", linewidth=1.4)


def _whole_numbers(axis: Any) -> None:
    axis.get_major_locator().set_params(integer=True)


def _line(ax: Axes, at_W: Any, values_W: Means, style: str, **options: Any) -> None:
    ax.plot(at_W, 100 * values_W, style, marker="o", markersize=2.5, **options)


def _mean(values_KW: Means) -> Means:
    mean_W: Means = values_KW.mean(axis=0)
    return mean_W


def shown(token: str) -> str:
    """A token's text as a label: white space and control characters made visible."""
    text = token.replace(" ", _SPACE).replace("\n", _NEWLINE).replace("\t", _TAB)
    return (
        "".join(
            c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode()
            for c in text
        )
        or "·"
    )
