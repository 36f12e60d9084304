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

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from transformers import PreTrainedModel

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")
_LEAST_TOKENS = 512  # of a lane: fewer are done sooner than they are started


class Lanes:
    """Threads that take a micro-batch each, with an equal share of torch's threads.

    Args:
        count: the most at once.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._all = torch.get_num_threads()
        self._each = max(1, self._all // count)
        self._pool: ThreadPoolExecutor | None = None

    def run(
        self,
        action: Callable[[_Argument], _Result],
        arguments: Sequence[_Argument],
        size: Callable[[_Argument], float] = lambda _: 0.0,
    ) -> list[_Result]:
        """Run an action on each argument, `count` side by side, to the end of all.

        A single one runs in the caller's own thread, with all of torch's threads. The count of
        threads for matrix products is one for all threads of a process (MKL), where the others'
        are each thread's own: so the caller's is the lanes' meanwhile.

        Args:
            size: of an argument: the largest begin first, so that all lanes end at about one time.
        """
        if len(arguments) == 1:
            return [action(arguments[0])]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self.count, "lane", initializer=torch.set_num_threads, initargs=(self._each,)
            )
        torch.set_num_threads(self._each)
        try:
            order = sorted(range(len(arguments)), key=lambda place: -size(arguments[place]))
            running = {place: self._pool.submit(action, arguments[place]) for place in order}
            wait(running.values())
        finally:
            torch.set_num_threads(self._all)
        return [running[place].result() for place in range(len(arguments))]


def lanes_for(model: PreTrainedModel, tokens: int) -> int:
    """How many lanes serve a model that computes as it is: a core each, as far as that fills them.

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
