"""A layout as a line of text: the verbal tokens as they read, and the latents between them.

    ▸start·4▸44@47=83,▸comma·2▸47@83=34

Between the marks stands the trigger and how many latents it puts there; behind a `#` the group,
where it is not the trigger's own.
"""

from __future__ import annotations

import numpy as np

from trainable.data import EncodedRow
from trainable.delimiters import Vocabulary
from trainable.layout import NOT_LATENT, whole_layout
from trainable.strategy import InsertionStrategy, Specialization
from trainable.trigger import Readout

_OWN_GROUPS = (Specialization.SHARED, Specialization.BY_TRIGGER)


def layout_text(
    strategy: InsertionStrategy, vocabulary: Vocabulary, row: EncodedRow, most_tokens: int = 24
) -> str:
    """A row with a strategy's latents visible, cut after some verbal tokens."""
    layout = whole_layout(vocabulary.rules(strategy), row.ids, row.query_length)
    sites = {name: _sites_of(name, strategy, vocabulary, row) for name in _in_order(strategy)}
    ends = np.cumsum(strategy.group_sizes)
    parts = []
    for place, token in enumerate(row.ids[:most_tokens].tolist()):
        rows = layout.latent_T[(layout.verbal_T == place) & (layout.latent_T != NOT_LATENT)]
        for name in (name for name in sites if place in sites[name]):
            m = strategy.triggers[name].m
            group = int(np.searchsorted(ends, rows[0], side="right"))
            rows = rows[m:]
            which = "" if strategy.specialization in _OWN_GROUPS else f"#{group}"
            parts.append(f"▸{name}·{m}{which}▸")
        assert not len(rows), "every latent belongs to a trigger"
        parts.append(_readable(vocabulary.texts[token]))
    return "".join(parts) + ("…" if len(row.ids) > most_tokens else "")


def _in_order(strategy: InsertionStrategy) -> list[str]:
    """The triggers in the order in which they are spliced where they meet."""
    return sorted(
        strategy.triggers, key=lambda name: strategy.triggers[name].readout is not Readout.LATENT
    )


def _sites_of(
    name: str, strategy: InsertionStrategy, vocabulary: Vocabulary, row: EncodedRow
) -> set[int]:
    """The verbal tokens before which a trigger puts latents."""
    alone = InsertionStrategy(triggers={name: strategy.triggers[name]})
    layout = whole_layout(vocabulary.rules(alone), row.ids, row.query_length)
    return set(layout.verbal_T[layout.latent_T != NOT_LATENT].tolist())


def _readable(text: str) -> str:
    return text.replace("\n", "⏎").replace("\t", "⇥")
