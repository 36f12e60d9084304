"""How many slots go through the model at once, and what happens when that is too many.

    rows ─► micro-batches of at most `tokens` slots ─► run one ─► out of memory?
                         ▲                                            │ yes
                         └── the same rows, at half as many slots ◄───┘

What a micro-batch adds to a result is added once it is through, so that one that is done again
counts once. A row that does not fit by itself is told to the caller, and the rest goes on.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch

from trainable.batch import (
    AnyRow,
    PreparedRow,
    batch_memory,
    batch_slots,
    lane_tokens,
    micro_batches,
)
from trainable.lanes import Lanes

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_PROBE_FROM_TOKENS = 2048
_PROBE_TO_TOKENS = 262_144  # a GPU is busy long before
_PROBE_WIDTH = 256
_CPU_IS_FULL = "DefaultCPUAllocator: can't allocate memory"
_PROBE_SHARE = 0.8  # of the memory: the rest is for evaluation and for what fragments


class TokenBudget:
    """The most slots, padding and a share of what they go on from included, at once in the model.

    Args:
        tokens: to start with, in all lanes together; halved where they do not fit.
        lanes: that run micro-batches side by side, each with its share of the tokens.
    """

    def __init__(self, tokens: int, lanes: Lanes | None = None) -> None:
        self.tokens = tokens
        self._lanes = lanes or Lanes()

    def batches(self, rows: Sequence[AnyRow]) -> Iterator[list[AnyRow]]:
        """The micro-batches that rows are cut into, longest rows first."""
        return micro_batches(rows, lane_tokens(rows, self.tokens, self._lanes.count))

    def run(
        self,
        rows: Sequence[AnyRow],
        action: Callable[[list[AnyRow]], _Result],
        refuse: Callable[[AnyRow], None],
        *,
        in_one_go: bool = False,
    ) -> Iterator[tuple[list[AnyRow], _Result]]:
        """Run an action over rows in micro-batches, as many side by side as there are lanes.

        Nothing runs while what is yielded is looked at: whoever suspends this owes no time.

        Args:
            action: may run out of memory, and must then have changed nothing. Lanes run it in
                threads of theirs.
            refuse: told of a row that does not fit by itself; other rows of its owner that have
                not been run are left out.
            in_one_go: whether lanes may run them all before the first is yielded, and need not
                wait for each other in between.

        Yields:
            Each micro-batch and its result, longest rows first.
        """
        waiting, refused = deque(self.batches(rows)), set[int]()
        while waiting:
            all_at_once = in_one_go and self._lanes.count > 1
            most = len(waiting) if all_at_once else self._lanes.count
            batches = self._next(waiting, refused, most)
            if not batches:
                continue
            found = self._lanes.run(partial(attempt, action), batches, batch_slots)
            failed = [batch for batch, results in zip(batches, found, strict=True) if not results]
            for batch, results in zip(batches, found, strict=True):
                if results:
                    yield batch, results[0]
            if failed and len(batches) == len(failed[0]) == 1:
                refused.add(failed[0][0].owner)
                refuse(failed[0][0])
            elif failed:
                self.halve(self._in_flight(map(batch_memory, batches)))
                waiting.extendleft(reversed(failed))

    def _next(
        self, waiting: deque[list[AnyRow]], refused: set[int], most: int
    ) -> list[list[AnyRow]]:
        """Micro-batches to run, taken from those that wait."""
        batches, memory, share = list[list[AnyRow]](), list[int](), self.tokens // self._lanes.count
        while waiting and len(batches) < most:
            batch = [row for row in waiting.popleft() if row.owner not in refused]
            needed = batch_memory(batch) if batch else 0
            if len(batch) > 1 and needed > share:  # cut before memory ran out
                waiting.extendleft(reversed(list(micro_batches(batch, share))))
            elif batches and self._in_flight([*memory, needed]) > self.tokens:
                waiting.appendleft(batch)
                break
            elif batch:
                batches.append(batch)
                memory.append(needed)
        return batches

    def _in_flight(self, memory: Iterable[int]) -> int:
        """What runs at once at most, of batches that need so much each."""
        return sum(heapq.nlargest(self._lanes.count, memory))

    def halve(self, slots: int) -> None:
        """From now on go on with half as many as these, which did not fit."""
        before, self.tokens = self.tokens, max(1, min(self.tokens, slots) // 2)
        logger.warning(
            "out of memory with %d tokens in one forward: from now on at most %d instead of %d "
            "(engine.micro_batch_tokens); results stay the same", slots, self.tokens, before,
        )  # fmt: skip


def too_long_message(row: PreparedRow) -> str:
    """What is wrong with a row that does not fit by itself, and what helps."""
    return (
        f"a row of {len(row)} tokens, latents included, does not fit into the memory even by "
        "itself: set data.max_tokens below that, load the base model in a smaller dtype, or set "
        "engine.checkpoint_activations: true"
    )


def probe_tokens(run: Callable[[int, int], None], device: torch.device) -> int:
    """Find how many slots fit, by trying more and more on a GPU.

    Args:
        run: forward and backward over so many rows of so many slots.
    """
    total = torch.cuda.get_device_properties(device).total_memory

    def fits(tokens: int) -> bool:
        torch.cuda.reset_peak_memory_stats(device)
        done = attempt(lambda rows: run(rows, _PROBE_WIDTH), tokens // _PROBE_WIDTH)
        return bool(done) and torch.cuda.max_memory_reserved(device) <= _PROBE_SHARE * total

    found = largest(fits)
    torch.cuda.empty_cache()
    logger.info("engine.micro_batch_tokens: auto found %d", found)
    return found


def largest(fits: Callable[[int], bool]) -> int:
    """The largest of the probed sizes that fits, each twice the one before."""
    tokens = _PROBE_FROM_TOKENS
    if not fits(tokens):
        return tokens // 2
    while tokens < _PROBE_TO_TOKENS and fits(2 * tokens):
        tokens *= 2
    return tokens


_Argument = TypeVar("_Argument")


def attempt(action: Callable[[_Argument], _Result], argument: _Argument) -> list[_Result]:
    """The result, alone in a list; an empty list where memory ran out.

    Args:
        action: must have changed nothing where it runs out of memory.
    """
    try:
        return [action(argument)]
    except (torch.OutOfMemoryError, MemoryError):
        pass  # outside of the handler nothing holds on to the tensors of what failed
    except RuntimeError as error:  # a CPU's allocator has no error of its own
        if _CPU_IS_FULL not in str(error):
            raise
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return []
