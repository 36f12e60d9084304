"""Which rows share a prefix, and which of them go through the model together.

Everything before a row's first latent is verbal: it needs no gradient, and it is the same in
every trial that reads the same example, up to where each has its first site:

    trial A   s0 s1 s2 s3 s4 s5 [u] s6 s7        six slots of prefix, three of tail
    trial B   s0 s1 s2 s3 [v] s4 s5 s6 [v] s7      a prefix of A's prefix: the same one
    trial C   [w] s0 s1 …                          shares nothing: a row as any other

So rows are split at their first site, prefixes that another one begins with are the same, and
tails of like length meet in one micro-batch, whichever prefix they go on from. A wave is so
many prefixes as one forward may hold, with all their rows.

Splitting costs one forward more per wave, and tails attend under a mask of their own: where
little is saved, rows stay whole.

Shape suffixes: T slots, N verbal tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from trainable.batch import PreparedRow
from trainable.layout import NOT_LATENT, Layout
from trainable.layout_rules import Ints

Sharing = Literal["auto", "off", "on"]

# What a forward and backward more costs: the work that is done in the time of starting it all.
_CALL_FLOP = {"cpu": 2.5e8, "cuda": 1e13}
_LEAST_PREFIX = 8  # slots; a shorter one is as quickly computed as fetched
_LEAST_SAVED = 0.08  # of the slots of all rows


@dataclass(frozen=True)
class SplitRow:
    """A row in two parts; as long as its tail, which is what goes through the model for it alone.

    Args:
        row: the whole of it.
        prefix: which of its wave's prefixes it begins with.
        cut: how many slots of it are taken from there; none of them is a latent.
    """

    row: PreparedRow
    prefix: int = 0
    cut: int = 0

    def __len__(self) -> int:
        """The slots behind the prefix; 0 where no label needs them."""
        return len(self.row) - self.cut if self.head_labels < len(self.row.response) else 0

    @property
    def past(self) -> int:
        """The slots that its tail goes on from."""
        return self.cut if len(self) else 0

    @property
    def owner(self) -> int:
        """The trial's place among those in this step."""
        return self.row.owner

    @cached_property
    def head_labels(self) -> int:
        """How many of the row's labels are predicted by slots of the prefix."""
        return int(np.searchsorted(self.row.predictor_N, self.cut)) if self.cut else 0

    def tail(self) -> PreparedRow:
        """What is behind the prefix, laid out: all of it where nothing is cut."""
        if not self.cut:
            return self.row
        layout, begin = self.row.layout, self.cut
        return replace(
            self.row,
            layout=Layout(
                layout.verbal_T[begin:],
                layout.latent_T[begin:],
                layout.position_T[begin:],
                layout.target_T[begin:],
                layout.pending,
            ),
            predictor_N=self.row.predictor_N[self.head_labels :] - begin,
        )


@dataclass(frozen=True)
class Wave:
    """Prefixes that are computed together, and the rows that go on from them.

    Args:
        prefixes: the ids of each, longest first; none where rows stay whole.
        rows: in no particular order; `micro_batches` cuts them.
    """

    prefixes: tuple[Ints, ...]
    rows: tuple[SplitRow, ...]


def call_slots_of(parameters: int, device: str) -> float:
    """What a forward more costs, in slots that take as long.

    Args:
        parameters: of the model, embeddings left out.
        device: its type.
    """
    return _CALL_FLOP[device] / (4 * max(1, parameters))


def plan(
    rows: Sequence[PreparedRow],
    max_tokens: int,
    sharing: Sharing = "auto",
    *,
    training: bool = True,
    call_slots: float = 64,
) -> list[Wave]:
    """Decide which rows share their prefixes, and with whom.

    Args:
        max_tokens: the slots of a forward, padding included.
        sharing: `auto` shares where it saves time, `on` wherever there is a prefix.
        training: whether whole rows would go through a backward too, which prefixes never do.
        call_slots: what a forward more costs, in slots that take as long.

    Returns:
        Waves; the one of whole rows, if any, is without prefixes.
    """
    if sharing == "off":
        return _whole(rows)
    cuts = [_first_site(row) for row in rows]
    if sharing == "auto":
        cuts = [_worth_it(cut, len(row)) for cut, row in zip(cuts, rows, strict=True)]
    groups = _groups(rows, cuts)
    price = 0.5 if training else 1.0  # of a prefix's slot, computed once and never backwards
    if sharing == "auto":
        groups = [group for group in groups if _saved(group, price) > 0]
        saved = sum(_saved(group, price) for group in groups)
        saved -= 2 * call_slots  # their prefixes; and whole rows apart from tails
        if saved < _LEAST_SAVED * sum(map(len, rows)):
            return _whole(rows)
    shared = {id(row.row) for group in groups for row in group.rows}
    whole = _whole([row for row in rows if id(row) not in shared])
    return [*whole, *_waves(groups, max_tokens)]


def _whole(rows: Sequence[PreparedRow]) -> list[Wave]:
    return [Wave((), tuple(SplitRow(row) for row in rows))] if rows else []


def _first_site(row: PreparedRow) -> int:
    """How many slots stand before the first latent."""
    latents = np.flatnonzero(row.layout.latent_T != NOT_LATENT)
    return int(latents[0]) if len(latents) else len(row)


def _worth_it(cut: int, length: int) -> int:
    return cut if cut >= max(_LEAST_PREFIX, _LEAST_SAVED * length) else 0


def _saved(group: Wave, price: float) -> float:
    """Slots that a prefix saves its rows, less what it costs itself."""
    return sum(row.cut for row in group.rows) - price * len(group.prefixes[0])


def _groups(rows: Sequence[PreparedRow], cuts: Sequence[int]) -> list[Wave]:
    """A wave for each prefix that is not the beginning of another one, longest first."""
    members: dict[bytes, list[SplitRow]] = {}
    for row, cut in zip(rows, cuts, strict=True):
        if cut:
            key = row.row.ids[:cut].tobytes()
            members.setdefault(key, []).append(SplitRow(row, cut=cut))
    groups: list[tuple[bytes, list[SplitRow]]] = []
    for key in sorted(members, reverse=True):  # a beginning comes right behind what goes on from it
        if groups and groups[-1][0].startswith(key):
            groups[-1][1].extend(members[key])
        else:
            groups.append((key, members[key]))
    groups.sort(key=lambda group: len(group[0]), reverse=True)
    return [Wave((np.frombuffer(key, dtype=np.int64),), tuple(each)) for key, each in groups]


def _waves(groups: Sequence[Wave], max_tokens: int) -> Iterator[Wave]:
    """Join groups as long as one forward holds their prefixes."""
    joined: list[Wave] = []
    for group in groups:
        if joined and (len(joined) + 1) * len(joined[0].prefixes[0]) > max_tokens:
            yield _join(joined)
            joined = []
        joined.append(group)
    if joined:
        yield _join(joined)


def _join(groups: Sequence[Wave]) -> Wave:
    return Wave(
        tuple(group.prefixes[0] for group in groups),
        tuple(
            replace(row, prefix=place) for place, group in enumerate(groups) for row in group.rows
        ),
    )
