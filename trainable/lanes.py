"""Micro-batches side by side on the cores of a CPU.

    one after the other    core 1  ▆▁▆▁▆▁▆▁▆▁▆▁     each operation is cut in two,
                           core 2  ▆▁▆▁▆▁▆▁▆▁▆▁     and waits for its other half
    in lanes               core 1  ▆▆▆▆▆▆▆▆▆▆▆▆     a micro-batch each,
                           core 2  ▆▆▆▆▆▆▆▆▆▆▆▆     nothing to wait for

A small model's pass has hundreds of short operations, and what two threads lose at the end of
each adds up. Micro-batches of a step have nothing to do with each other, so each lane takes one.
What they give is added in their order, whichever is through first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from transformers import PreTrainedModel

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")
_LEAST_TOKENS = 512  # of a lane: fewer are done sooner than they are started


class Lanes:
    """Threads that take a micro-batch each, with an equal share of torch's threads.

    Args:
        count: one runs in the caller's own thread, with all threads, as if there were no lanes.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._open = 0
        self._all = torch.get_num_threads()
        self._each = max(1, self._all // count)
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """What holds while anything runs in the lanes; may be opened again inside.

        The count of threads for matrix products is one for all threads of a process (MKL), and
        the others' are each thread's own: so the caller's is the lanes' meanwhile.
        """
        if self.count == 1:
            yield
            return
        self._open += 1
        torch.set_num_threads(self._each)
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                torch.set_num_threads(self._all)

    def start(self, action: Callable[[_Argument], _Result], argument: _Argument) -> Future[_Result]:
        """Run an action in the next free lane; by itself, before this returns, where it is one."""
        if self.count == 1:
            done = Future[_Result]()
            done.set_result(action(argument))
            return done
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self.count, "lane", initializer=torch.set_num_threads, initargs=(self._each,)
            )
        return self._pool.submit(action, argument)


def lanes_for(model: PreTrainedModel, tokens: int) -> int:
    """How many lanes serve a model that computes as it is: one each core, if that fills them.

    One on a GPU, and of a model whose code is not transformers' own: that is known to be safe in
    several threads.

    Args:
        tokens: in all lanes at once.
    """
    own = all(
        type(part).__module__.startswith("transformers.")
        for part in model.modules()
        if isinstance(part, PreTrainedModel)
    )
    if model.device.type != "cpu" or not own:
        return 1
    return max(1, min(torch.get_num_threads(), tokens // _LEAST_TOKENS))
