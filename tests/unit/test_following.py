"""A job's log as it is written, read where a loop runs and where none does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator

import pytest

from orchestrator.errors import ClusterError
from orchestrator.jobs.access import open_access
from orchestrator.jobs.cluster import Cluster
from orchestrator.jobs.following import pieces
from orchestrator.jobs.records import JobRecord
from tests.unit.fake_head import TOKEN, FakeHead, fake_head

NAME = "latentune-a.1"


def outside(read: Callable[[], list[str]]) -> list[str]:
    return read()


def inside(read: Callable[[], list[str]]) -> list[str]:
    """As a notebook runs a cell: code that is not asynchronous, in a loop that runs."""

    async def cell() -> list[str]:
        return read()

    return asyncio.run(cell())


AROUND = pytest.mark.parametrize("around", [outside, inside])
Around = Callable[[Callable[[], list[str]]], list[str]]


class Written:
    """A log that is being written.

    Args:
        error: that it ends with.
        ends: whether it ends.
    """

    def __init__(self, error: Exception | None = None, *, ends: bool = True) -> None:
        self.error = error
        self.ends = ends
        self.is_closed = False

    async def stream(self, submission_id: str = NAME) -> AsyncGenerator[str]:
        try:
            for line in ("one\n", "two\n"):
                await asyncio.sleep(0)
                yield line
            if self.error is not None:
                raise self.error
            if not self.ends:
                await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            self.is_closed = True


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHead]:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with fake_head() as head:
        yield head


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert [one.name for one in threading.enumerate() if one.name == "latentune-follow"] == []


def job(address: str) -> JobRecord:
    return JobRecord(name="a", submission_id=NAME, attempt=1, address=address, state="running")


@AROUND
def test_a_log_is_followed_to_its_end(
    around: Around, head: FakeHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, written = Cluster(open_access(head.url)), Written()
    monkeypatch.setattr(cluster._client, "tail_job_logs", written.stream)
    assert around(lambda: list(cluster.follow(job(head.url)))) == ["one\n", "two\n"]
    assert written.is_closed


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated")  # Ray's
@AROUND
def test_a_front_that_turns_it_away_is_a_cluster_that_does_not_answer(
    around: Around, head: FakeHead
) -> None:
    cluster = Cluster(open_access(head.url))
    with pytest.raises(ClusterError, match="does not answer: 404") as caught:
        around(lambda: list(cluster.follow(job(head.url))))
    assert TOKEN not in str(caught.value)


@AROUND
def test_what_a_stream_raises_is_raised(around: Around) -> None:
    written = Written(RuntimeError("closed unexpectedly"))
    with pytest.raises(RuntimeError, match="closed unexpectedly"):
        around(lambda: list(pieces(written.stream())))
    assert written.is_closed


@AROUND
def test_who_reads_no_further_closes_it(around: Around) -> None:
    written = Written(ends=False)

    def read() -> list[str]:
        following = pieces(written.stream())
        found = [next(following), next(following)]
        following.close()  # type: ignore[attr-defined]
        return found

    assert around(read) == ["one\n", "two\n"]
    assert written.is_closed
