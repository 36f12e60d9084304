"""A prompt that is to be answered, and how far a pool has got with it.

waits ──begin──► piece to feed ──chunk, go_on──► all fed: writes a token ──take──► over?
▲                  ▲                                                      │ no
└──────wait────────┴──────────────────────────────────────────────────────┘
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trainable.decoding import LatentLM
from trainable.layout import NOT_LATENT
from trainable.layout_rules import Ints
from trainable.row_layout import NOTHING, Piece, RowLayout


@dataclass(frozen=True)
class Request:
    """A prompt that is to be answered.

    Args:
        owner: which of the pool's trials answers.
        query_ids: s_0 .. s_{q-1}.
        max_new_tokens: the longest answer.
        ends: ids that end an answer, and belong to it.
        context: slots; an answer whose next token would stand beyond ends. None: it does not.
    """

    owner: int
    query_ids: Ints
    max_new_tokens: int
    ends: frozenset[int] = frozenset()
    context: int | None = None


@dataclass(slots=True, eq=False)
class DecodingRow:
    """A request on its way.

    Args:
        place: among the requests.
        layout: how far it is laid out; None while it waits.
        written: the answer so far; of a row in the batch, all but the last are in the cache.
        slots: how many of its slots are in the cache.
        piece: what it has yet to feed before it writes the next token.
        fed: the verbal tokens of it.
    """

    place: int
    request: Request
    layout: RowLayout | None = None
    written: list[int] = field(default_factory=list)
    slots: int = 0
    piece: Piece = NOTHING
    fed: list[int] = field(default_factory=list)

    def begin(self, lm: LatentLM) -> None:
        """Lay out what is known: the query, and what has been written already."""
        query = self.request.query_ids.tolist()
        self.layout, self.slots = lm.start_row(query), 0
        self.fed = query + self.written
        self.piece = self.layout.feed(self.fed)

    def chunk(self, most: int) -> tuple[list[int], Piece]:
        """The next slots of its piece: the verbal tokens among them, and them."""
        ids, piece = self.fed, self.piece
        if len(piece) <= most:
            return ids, piece
        chunk = Piece(piece.latent_T[:most], piece.position_T[:most])
        return ids[: int((chunk.latent_T == NOT_LATENT).sum())], chunk

    def go_on(self, count: int, width: int) -> None:
        """Note that a chunk of so many verbal tokens and slots is in the cache."""
        self.slots += width
        self.fed = self.fed[count:]
        piece = self.piece
        rest = Piece(piece.latent_T[width:], piece.position_T[width:])
        self.piece = rest if len(piece) > width else NOTHING

    def wait(self) -> None:
        """Leave the cache; begin again with what has been written."""
        self.layout, self.slots = None, 0

    def take(self, token: int) -> bool:
        """Go on with a token that the model wrote. Returns whether the answer ends with it."""
        request, layout = self.request, self.layout
        assert layout is not None
        self.written.append(token)
        if token in request.ends or len(self.written) >= request.max_new_tokens:
            return True
        self.fed = [token]
        self.piece = layout.feed(self.fed)
        return request.context is not None and self.slots + len(self.piece) > request.context
