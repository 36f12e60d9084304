"""One row's layout while its tokens appear, cheap enough for every step of decoding.

`advance` costs as much for one token as for thirty. And what a token adds depends on the token
itself only where a delimiter matches it. So a row looks ahead: it lays out the next tokens as if
no delimiter were among them, and hands that out piece by piece while this holds:

    laid out ahead    7 8 [v] 9 0 1 [v] 2 ...      every(3), before `[v] 9` and `[v] 2`
    tokens            7 8     9 ,                  the comma ends it: from here on anew
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainable.layout import NO_TARGET, Layout, advance
from trainable.layout_rules import Bools, Ints, LayoutRules, LayoutState

LOOK_AHEAD = 32  # tokens


@dataclass(frozen=True, slots=True)
class Piece:
    """The slots that some tokens add, as in `Layout`."""

    latent_T: Ints
    position_T: Ints

    def __len__(self) -> int:
        return len(self.latent_T)


NOTHING = Piece(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Outlook:
    """Which ids no delimiter matches.

    Args:
        matched_V: whether some delimiter matches an id; None without any delimiter.
        plain_id: an id that none matches; None where there is no such id.
    """

    rules: LayoutRules
    matched_V: Bools | None
    plain_id: int | None

    @classmethod
    def of(cls, rules: LayoutRules) -> Outlook:
        """Read it off a strategy's resolved rules."""
        splices = (*rules.latent_first, *rules.verbal_after)
        matches = [splice.matches_V for splice in splices if splice.matches_V is not None]
        if not matches:
            return cls(rules, None, 0)
        matched_V: Bools = np.logical_or.reduce(matches)
        return cls(rules, matched_V, None if matched_V.all() else int(matched_V.argmin()))

    def __deepcopy__(self, memo: object) -> Outlook:
        return self  # nothing in it ever changes

    def is_plain(self, token: int) -> bool:
        """Whether no delimiter matches this id."""
        return self.matched_V is None or not self.matched_V[token]


class RowLayout:
    """A row and how far it has been laid out.

    Args:
        outlook: the strategy's.
        state: from `start_state`.
    """

    def __init__(self, outlook: Outlook, state: LayoutState) -> None:
        self._outlook = outlook
        self._restart(state)

    def _restart(self, state: LayoutState) -> None:
        self._state = state  # where looking ahead began
        self._fed: list[int] = []  # tokens since then
        self._ahead: Layout | None = None
        self._ends: list[int] = [0]  # slots ahead up to the i-th token, what follows it included

    @property
    def state(self) -> LayoutState:
        """The state behind all tokens so far."""
        return advance(self._outlook.rules, self._state, self._fed)[1] if self._fed else self._state

    def feed(self, ids: Sequence[int]) -> Piece:
        """Lay out the next tokens; returns their slots, and the latents already decided behind."""
        if len(ids) == 1 and self._outlook.is_plain(ids[0]) and self._outlook.plain_id is not None:
            return self._feed_plain(ids[0])
        given = self._ends[len(self._fed)]
        layout, state = advance(self._outlook.rules, self._state, [*self._fed, *ids])
        self._restart(state)
        return Piece(layout.latent_T[given:], layout.position_T[given:])

    def branch(self) -> RowLayout:
        """A row that goes on from here by itself."""
        row = RowLayout(self._outlook, self._state)
        row._fed, row._ahead, row._ends = self._fed.copy(), self._ahead, self._ends
        return row

    def _feed_plain(self, token: int) -> Piece:
        if self._ahead is None or len(self._fed) == LOOK_AHEAD:
            self._restart(self.state)
            plain = [self._outlook.plain_id] * LOOK_AHEAD
            self._ahead, _ = advance(self._outlook.rules, self._state, np.array(plain))
            self._ends = _ends(self._ahead, self._state.length)
        begin, end = self._ends[len(self._fed) : len(self._fed) + 2]
        self._fed.append(token)
        return Piece(self._ahead.latent_T[begin:end], self._ahead.position_T[begin:end])


def _ends(ahead: Layout, length: int) -> list[int]:
    """Where what the 0 .. K first tokens decide ends: behind the last slot that may predict s_i."""
    slots = np.flatnonzero(ahead.target_T != NO_TARGET)
    last = np.searchsorted(ahead.target_T[slots], length + 1 + np.arange(LOOK_AHEAD), side="right")
    return [0, *(slots[last - 1] + 1).tolist()]
