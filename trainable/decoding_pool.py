"""Greedy decoding of many trials' prompts together, on one frozen model.

    trial A, every 8 ..    7 8 [v] 9 .        one batch, one forward per step; each row has its
    trial B, commas ..     4 , [u u] 1        own strategy, latents and chunk, and ends by itself
    trial C, start  ..     [w w] 3 @ 5 =
                           `- a row that is over makes room for one that waits

Rows that wait are prefilled several at a time. How many are decoded at once is bounded by
the slots of the cache; where answers grow beyond it, the newest rows wait again, and are
prefilled with what they have written. Where memory runs out all wait again, and half as many are
decoded at once. Each row's answer is that of `LatentLM.generate`.

Shape suffixes: B rows, T slots of a chunk, S slots that are looked at, D width, L latents.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from trainable.chunks import LATENT, POSITION, chunk_table, embed_chunk
from trainable.decoding import LatentLM, refuse_nothing
from trainable.decoding_row import DecodingRow, Request
from trainable.errors import RowMemoryError
from trainable.layout import NOT_LATENT
from trainable.layout_rules import Ints
from trainable.memory import attempt
from trainable.row_cache import RowCache, keeps_rows
from trainable.row_layout import Piece

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = {"cpu": 128, "cuda": 1024}
CACHE_SLOTS = {"cpu": 32_768, "cuda": 262_144}
_PROMPT_SLOTS = {"cpu": 2048, "cuda": 32_768}  # prefilled at once, padding included
# Slots of a row in one step, its prompt apart: on a CPU each slot costs, padding too, on a GPU each
# step. A row whose chunk is wider takes several steps, while the others go on.
CHUNK_SLOTS = {"cpu": 1, "cuda": 64}
_ADMIT_SHARE = 8  # rows are let in once an eighth of the places is free
_SLOT_STEP = 16  # a multiple of it is looked at: kernels like their masks so
_SLOT = 3  # the table's last plane: where a slot stands in its row
# What a generation config may say without changing what greedy decoding writes.
_HARMLESS = frozenset(
    "bos_token_id eos_token_id pad_token_id transformers_version _from_model_config do_sample "
    "temperature top_k top_p top_h min_p typical_p epsilon_cutoff eta_cutoff max_length "
    "max_new_tokens length_penalty compile_config disable_compile".split()
)
_NEUTRAL = {
    "use_cache": True,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1,
    "guidance_scale": 1,
}


class DecodingPool:
    """Trials of one frozen model, whose requests are decoded in one batch.

    Args:
        lms: one per owner; all of the same frozen model.
        rows_at_once: the most rows of a batch. Default by device.
        cache_slots: the most slots that the cache has room for, all rows together, unless a
            single row needs more. Default by device.
        chunk_slots: the most slots of a row in one step of decoding. Default by device.
    """

    def __init__(
        self,
        lms: Sequence[LatentLM],
        *,
        rows_at_once: int | None = None,
        cache_slots: int | None = None,
        chunk_slots: int | None = None,
    ) -> None:
        self._frozen, device = lms[0].frozen, lms[0].latents.device
        assert all(lm.frozen is self._frozen for lm in lms)
        self._lms = lms
        self._rows_at_once = rows_at_once or ROWS_AT_ONCE[device.type]
        self._cache_slots = cache_slots or CACHE_SLOTS[device.type]
        self._chunk_slots = chunk_slots or CHUNK_SLOTS[device.type]
        self._prompt_slots = _PROMPT_SLOTS[device.type]
        counts = [len(lm.latents) for lm in lms]
        self._first_latent = np.cumsum([0, *counts])  # per owner, its first row of:
        self._latents_LD = torch.cat([lm.latents.detach() for lm in lms])
        self._has_context = any(lm.context is not None for lm in lms)
        self._cache = RowCache(self._frozen.config)
        self._waiting: deque[DecodingRow] = deque()
        self._active: list[DecodingRow] = []  # the cache's first rows, in order
        self._cancelled: set[int] = set()
        self.failures: dict[int, RowMemoryError] = {}

    def cancel(self, owner: int) -> None:
        """Decode nothing more for an owner; what it has not been handed it never will."""
        self._cancelled.add(owner)

    def run(self, requests: Sequence[Request]) -> Iterator[tuple[int, Ints]]:
        """Answer requests, any number of owners' in any order.

        Yields:
            The place of a request and its answer, the token that ends it included, as answers
            end. In between, owners may be cancelled.

        Raises:
            StrategyError: if a prompt has neither a token nor a latent to go on from, or begins
                with a BOS that its latents are not meant for.
            ContextError: if a position is beyond a context that is hard.
            RowMemoryError: if a row does not fit into the memory by itself.
        """
        for answers in self.steps(requests):
            for failure in self.failures.values():
                raise failure
            for place, ids in answers:
                if requests[place].owner not in self._cancelled:
                    yield place, ids

    @torch.no_grad()
    def steps(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Ints]]]:
        """As `run`, a step of the model at a time.

        Where a row does not fit into the memory by itself, its owner is cancelled, and
        `failures` tells.

        Yields:
            The answers that ended in each step: often none.
        """
        rows = [DecodingRow(place, request) for place, request in enumerate(requests)]
        # Long ones first: prompts of like length are prefilled together, and the last are short.
        rows.sort(key=lambda row: (-len(row.request.query_ids), row.place))
        self._waiting = deque(row for row in rows if row.request.max_new_tokens > 0)
        yield [(row.place, _as_ids(row.written)) for row in rows if row.request.max_new_tokens < 1]
        while self._waiting or self._active:
            self._leave_cancelled()
            yield [(row.place, _as_ids(row.written)) for row in self._step()]

    def _step(self) -> list[DecodingRow]:
        """Prefill rows that wait, or decode a chunk of each active row. Returns rows over."""
        entering, slots = self._admitted()
        if not entering and not self._active:
            return []
        alone = not self._cache.rows and len(entering) == 1  # with nothing else in the memory
        found = attempt(lambda rows: self._fed(rows, slots), entering)
        if not found and alone:
            self._refuse(entering[0])
        if not found:
            self._retreat(self._active + entering)
            return []
        ((rows, tokens),) = found
        self._active += entering
        over = [
            row
            for row, token in zip(rows, tokens, strict=True)
            if not len(row.piece) and row.take(token)
        ]
        if over:
            gone = set(over)
            self._keep([row for row in self._active if row not in gone])
        return over

    def _fed(self, entering: list[DecodingRow], slots: int) -> tuple[list[DecodingRow], list[int]]:
        """Feed rows that enter, or else those inside; the rows, and the token each writes next."""
        if entering:
            self._resize(slots, len(self._active) + len(entering) + len(self._waiting))
            widest = max(len(row.piece) for row in entering)
            return entering, self._feed(len(self._active), entering, widest)
        self._make_room()
        rows = list(self._active)
        return rows, self._feed(0, rows, self._chunk_slots)

    def _refuse(self, row: DecodingRow) -> None:
        """Decode nothing more for the owner of a row that does not fit by itself."""
        owner = row.request.owner
        self.cancel(owner)
        self.failures[owner] = RowMemoryError(
            f"a prompt of {len(row.piece)} tokens, latents and what is written included, does not "
            "fit into the memory even by itself: set data.max_tokens below that, or load the base "
            "model in a smaller dtype"
        )

    def _retreat(self, rows: Sequence[DecodingRow]) -> None:
        """Memory ran out: let the cache go, and begin these rows again, half as many at once."""
        self._cache, self._active = RowCache(self._frozen.config), []
        for row in reversed(rows):
            row.wait()
            self._waiting.appendleft(row)
        if len(rows) > 1:
            self._rows_at_once = len(rows) // 2
            self._prompt_slots = max(1, self._prompt_slots // 2)
            logger.warning(
                "out of memory with %d answers decoded at once: from now on at most %d of this "
                "evaluation; results stay the same", len(rows), self._rows_at_once,
            )  # fmt: skip

    def _leave_cancelled(self) -> None:
        if self._cancelled:
            self._waiting = deque(
                row for row in self._waiting if row.request.owner not in self._cancelled
            )
            self._keep([row for row in self._active if row.request.owner not in self._cancelled])

    def _keep(self, rows: list[DecodingRow]) -> None:
        """Let the other active rows go: the last of those that stay move into their places."""
        if len(rows) == len(self._active):
            return
        staying = set(rows)
        count = len(rows)
        free = [place for place, row in enumerate(self._active[:count]) if row not in staying]
        last = [
            place for place in range(count, len(self._active)) if self._active[place] in staying
        ]
        slots = max((self._active[place].slots for place in last), default=0)
        self._cache.move(last, free, slots)
        for source, target in zip(last, free, strict=True):
            self._active[target] = self._active[source]
        del self._active[count:]

    def _admitted(self) -> tuple[list[DecodingRow], int]:
        """Rows that wait and have a place now, laid out as far as they are known.

        Returns:
            They, and the slots that the cache then needs.
        """
        if not self._waiting:
            return [], self._cache.slots
        free = self._most_rows(self._cache.slots) - len(self._active)
        if self._active and free < max(1, self._most_rows(self._cache.slots) // _ADMIT_SHARE):
            return [], self._cache.slots
        rows: list[DecodingRow] = []
        needed = max((row.slots + len(row.piece) for row in self._active), default=0)
        slots, width, ahead = self._cache.slots, 0, 0
        while self._waiting and (not rows or len(rows) < free):
            row = self._waiting[0]
            if row.layout is None:
                row.begin(self._lms[row.request.owner])
            width = max(width, len(row.piece))
            ahead = max(ahead, row.request.max_new_tokens - len(row.written))
            wanted = self._slots_for(max(needed, width), ahead)
            count = len(rows) + 1
            if (len(self._active) or rows) and (
                len(self._active) + count > self._most_rows(wanted)
                or (rows and width * count > self._prompt_slots)
            ):
                break
            slots = wanted
            rows.append(self._waiting.popleft())
        refuse_nothing([row.piece for row in rows])
        return rows, slots

    def _slots_for(self, needed: int, ahead: int) -> int:
        """The slots of a cache whose longest row needs so many now, and will need more.

        Args:
            ahead: the most tokens that a row may yet write. Growing costs a copy of everything,
                so there is room for them from the start where no row has to wait for that.
        """
        slots = self._cache.slots
        spare = min(needed + ahead, self._cache_slots // self._rows_at_once)
        fits = needed <= slots <= max(4 * needed, _rounded_up(spare))
        return slots if fits else _rounded_up(max(2 * needed, spare))

    def _make_room(self) -> None:
        """Let the next chunk of each active row fit; the newest rows wait again if need be."""
        width = min(self._chunk_slots, max(len(row.piece) for row in self._active))
        needed = max(row.slots for row in self._active) + width
        if needed <= self._cache.slots:
            return
        slots = max(2 * self._cache.slots, _rounded_up(needed))
        staying = self._most_rows(slots)
        for row in reversed(self._active[staying:]):
            row.wait()
            self._waiting.appendleft(row)
        del self._active[staying:]
        self._resize(slots, len(self._active) + len(self._waiting))

    def _most_rows(self, slots: int) -> int:
        return max(1, min(self._rows_at_once, self._cache_slots // max(slots, 1)))

    def _resize(self, slots: int, wanted_rows: int) -> None:
        rows = min(self._most_rows(slots), wanted_rows)
        if slots != self._cache.slots or rows > self._cache.rows:
            self._cache.resize(rows, slots)

    def _feed(self, begin: int, rows: Sequence[DecodingRow], most: int) -> list[int]:
        """Feed the next chunk of each row, of so many slots at most.

        Args:
            begin: the first row's place in the cache.

        Returns:
            The token that each writes next, which counts where nothing is left of its piece.
        """
        ids, pieces = zip(*(row.chunk(most) for row in rows), strict=True)
        table_4BT = chunk_table(ids, pieces)
        if self._has_context:
            self._refuse_positions(rows, table_4BT[POSITION])
        has_latents = self._count_latents(rows, table_4BT[LATENT])
        slot_BT = table_4BT[_SLOT]
        slot_BT[:] = _slots(rows, pieces, slot_BT.shape[1])
        seen = min(_rounded_up(int(slot_BT.max()) + 1), self._cache.slots)
        on_device = torch.from_numpy(table_4BT).to(self._latents_LD.device)
        embeds_BTD = embed_chunk(
            on_device,
            self._frozen.get_input_embeddings(),
            self._latents_LD if has_latents else None,
        )
        self._cache.aim(begin, on_device[_SLOT], seen)
        lm = self._lms[0]
        output = self._frozen(
            inputs_embeds=embeds_BTD,
            position_ids=on_device[POSITION],
            attention_mask=lm.attention.row_masks(on_device[_SLOT], seen, embeds_BTD.dtype),
            past_key_values=self._cache.cache,
            use_cache=True,
            **lm.last_logits,
        )
        tokens: list[int] = output.logits[:, -1].argmax(-1).tolist()
        for row, fed, piece in zip(rows, ids, pieces, strict=True):  # it has not run out of memory
            row.go_on(len(fed), len(piece))
        return tokens

    def _count_latents(self, rows: Sequence[DecodingRow], latent_BT: Ints) -> bool:
        """Let each row's latents count among all owners'. Returns whether there is any."""
        is_latent_BT = latent_BT != NOT_LATENT
        first_B = self._first_latent[[row.request.owner for row in rows]]
        latent_BT += np.where(is_latent_BT, first_B[:, None], 0)
        return bool(is_latent_BT.any())

    def _refuse_positions(self, rows: Sequence[DecodingRow], position_BT: Ints) -> None:
        for row, highest in zip(rows, position_BT.max(axis=1).tolist(), strict=True):
            self._lms[row.request.owner].refuse_positions(highest)


def can_pool(lm: LatentLM) -> bool:
    """Whether a pool writes what the model's own `generate()` does when it decodes greedily.

    Not where layers carry more than keys and values, and not where its generation config asks
    for more than the likeliest token: a repetition penalty, suppressed tokens, beams.
    """
    options = {} if lm.generation_config is None else lm.generation_config.to_diff_dict()
    asked = {name for name, value in options.items() if value and value != _NEUTRAL.get(name)}
    return keeps_rows(lm.frozen.config) and asked <= _HARMLESS


def _slots(rows: Sequence[DecodingRow], pieces: Sequence[Piece], width: int) -> Ints:
    """Where the slots of a chunk stand in their rows, [B, T].

    The padding in front of a piece goes behind its end: never seen, and soon written over.
    """
    count = len(rows)
    begin_B = np.fromiter((row.slots for row in rows), np.int64, count)
    width_B = np.fromiter(map(len, pieces), np.int64, count)
    place_BT: Ints = begin_B[:, None] + (np.arange(width) + width_B[:, None]) % width
    return place_BT


def _rounded_up(slots: int) -> int:
    return -(-slots // _SLOT_STEP) * _SLOT_STEP


def _as_ids(tokens: Sequence[int]) -> Ints:
    return np.array(tokens, dtype=np.int64)
