"""The watch over a run: what ends it is passed on, whatever fails meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.control import Requests
from orchestrator.halting import Watch
from tests.unit.ledgers import search_folder
from trainable.errors import DiskFullError

DEADLINE_S = 10.0


class Halted:
    """A conductor with one running trial."""

    halted: str | None = None
    full_disk: str | None = None

    def halt(self, reason: str) -> list[str]:
        self.halted = reason
        return ["tiny-0"]

    def stop_trial(self, number: int) -> str | None:
        return f"tiny-{number}"


class Failing:
    """Fails at its first calls."""

    def __init__(self, times: int, error: Exception) -> None:
        self.done = threading.Event()
        self.given: list[Any] = []
        self._errors = [error] * times

    def __call__(self, *given: Any) -> None:
        if self._errors:
            raise self._errors.pop()
        self.given += given
        self.done.set()


@pytest.fixture
def watch(tmp_path: Path) -> Callable[..., Watch]:
    def build(**parts: Any) -> Watch:
        interrupt = threading.Event()
        defaults: dict[str, Any] = {"seconds_left": lambda: 99.0, "pause": lambda _: None}
        return Watch(
            conductor=Halted(),  # type: ignore[arg-type]
            folder=search_folder(tmp_path),
            interrupt=interrupt,
            **defaults | parts,
        )

    return build


@pytest.mark.parametrize("error", [DiskFullError("disk full: engines.json"), KeyError("node")])
def test_what_cannot_be_halted_at_once_is_halted_at_the_next_round(
    watch: Callable[..., Watch], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """A roster that finds no space kept nobody from pausing the trials, and killed the thread."""
    halt, pause = Failing(2, error), Failing(1, error)
    watched = watch(halt=halt, pause=pause)
    with watched.kept():
        watched.interrupt.set()
        assert pause.done.wait(DEADLINE_S)
        assert halt.done.wait(DEADLINE_S)
    assert pause.given == [["tiny-0"]]
    assert caplog.text.count("could not be halted, trying again") == 1


def test_a_look_that_fails_is_taken_again(watch: Callable[..., Watch]) -> None:
    paused, fails = threading.Event(), [OSError("stale"), OSError("stale")]

    def seconds_left() -> float:
        if fails:
            raise fails.pop()
        return 0.0

    def pause(uids: Sequence[str]) -> None:
        paused.set()

    watched = watch(seconds_left=seconds_left, pause=pause)
    with watched.kept():
        assert paused.wait(DEADLINE_S)
    assert watched.conductor.halted == "time"


def test_one_trial_is_paused_once_and_its_request_is_forgotten(
    watch: Callable[..., Watch],
) -> None:
    pause = Failing(1, OSError("stale"))
    watched = watch(pause=pause)
    with watched.kept():
        Requests(watched.folder).stop_trial(3)
        assert pause.done.wait(DEADLINE_S)
        assert not threading.Event().wait(0.6)  # more rounds
    assert pause.given == [["tiny-3"]]
    assert Requests(watched.folder).trials() == []
