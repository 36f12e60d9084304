"""An asynchronous stream, read by code that is not asynchronous.

Its loop runs in a thread of its own: where a notebook's cell runs, this thread has a loop already,
and Python lets no other one run in it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from queue import SimpleQueue


def pieces(stream: AsyncGenerator[str]) -> Iterator[str]:
    """A stream's pieces as they come; raises what it raises.

    Args:
        stream: closed at the end, also where nobody reads on.
    """
    told = SimpleQueue[str | None]()

    async def read() -> None:
        async with aclosing(stream):
            async for piece in stream:
                told.put(piece)

    with _own_loop() as loop:
        reading = asyncio.run_coroutine_threadsafe(read(), loop)
        reading.add_done_callback(lambda _: told.put(None))
        try:
            while (piece := told.get()) is not None:
                yield piece
            reading.result()
        finally:
            reading.cancel()
            asyncio.run_coroutine_threadsafe(_others_end(), loop).result()


@contextmanager
def _own_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread of its own for as long as this lasts."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="latentune-follow", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _others_end() -> None:
    """Wait until nothing else runs in this loop; what was cancelled has then cleaned up."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
