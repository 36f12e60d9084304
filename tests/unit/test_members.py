"""Members of a confirmation whose driver froze, and thaws beside the one that took it over."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ALL_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator import members
from orchestrator.checkpoints import load_state
from orchestrator.config import SearchConfig
from orchestrator.engines.actor import EngineActor
from orchestrator.errors import ConfirmationHaltedError, SearchLockedError
from orchestrator.events import EventLog, read_events
from orchestrator.folders import SearchFolder
from orchestrator.members import Bench, Member, MemberReport, count_reports
from orchestrator.opening import engine_options
from orchestrator.search_data import read_data
from tests.integration.small_search import NAME, small_config, wait_until
from trainable.errors import TaskError
from trainable.trial import TrialConfig

STEPS, HOLDER, WAIT_S = 30, f"{NAME}@1", 60
MEMBERS = [
    Member(uid=f"{NAME}-confirm-x-{seed}", config=TrialConfig.from_dict(
        {"strategy": {"triggers": {"s": {"kind": "start", "m": 2}}}, "seed": seed}))
    for seed in (1000, 1001)
]  # fmt: skip


@dataclass
class Calls:
    """One driver's calls of an engine that lives in this process."""

    engine: EngineActor
    frozen: threading.Event = field(default_factory=threading.Event)
    thawed: threading.Event = field(default_factory=threading.Event)
    joins: Counter[tuple[str, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.pool = ThreadPoolExecutor()

    def begin(self, method: str, *arguments: Any) -> Future[Any]:
        if method == "join":
            self.joins[arguments[0].uid, arguments[0].attempt] += 1
        return self.pool.submit(getattr(self.engine, method), *arguments)

    def ask(self, method: str, *arguments: Any) -> Any:
        return self.begin(method, *arguments).result(WAIT_S)

    def ready(self, calls: Sequence[Future[Any]], timeout_s: float) -> list[Future[Any]]:
        self.frozen.set()
        assert self.thawed.wait(WAIT_S)
        return list(wait(calls, timeout_s, ALL_COMPLETED).done)

    def answer(self, call: Future[Any]) -> Any:
        return call.result(WAIT_S)


class TakenOver:
    """Two drivers with one search, and one engine."""

    def __init__(self, home: Path, config: SearchConfig) -> None:
        self.folder = SearchFolder.of(home, NAME)
        self.folder.path.mkdir(parents=True)
        self.engine = EngineActor(*engine_options(config))
        self.source = read_data(config, home).source
        self.engine.greet(HOLDER)
        self.taken, self.halted = threading.Event(), threading.Event()

    def fence(self) -> None:
        if self.taken.is_set():
            raise SearchLockedError("was taken over")

    def train(self, calls: Calls, fence: Callable[[], None]) -> dict[str, MemberReport]:
        with EventLog(self.folder.events, fence) as events:
            bench = Bench(
                engine=calls, name="e", holder=HOLDER, data=self.source, splits=["val_id"],
                steps=STEPS, at_once=2, folder=self.folder, events=events,
                halt=self.halted.is_set, say=lambda _: None,
            )  # fmt: skip
            return bench.train(MEMBERS)


@pytest.mark.parametrize("knows", [True, False])
def test_a_driver_that_thaws_leaves_the_members_to_the_one_that_took_them_over(
    knows: bool, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the fence it writes nothing; without one, too, its attempt is the earlier one."""
    monkeypatch.setattr(members, "_RETRY_S", 0.05)
    both = TakenOver(tmp_path, SearchConfig.model_validate(small_config(tiny_folder)))
    first, second = Calls(both.engine), Calls(both.engine)
    with ThreadPoolExecutor() as drivers:
        thawing = drivers.submit(both.train, first, both.fence if knows else lambda: None)
        assert first.frozen.wait(WAIT_S)
        both.taken.set()
        both.engine.greet(HOLDER)
        going_on = drivers.submit(both.train, second, lambda: None)
        assert second.frozen.wait(WAIT_S)  # its members are in
        first.thawed.set()
        if knows:
            with pytest.raises(SearchLockedError):
                thawing.result(WAIT_S)
        else:
            wait_until(lambda: max(first.joins.values()) > 3)  # refused, again and again
        assert count_reports(both.folder) == 0
        second.thawed.set()
        reports = going_on.result(WAIT_S)
        both.halted.set()
        if not knows:
            with pytest.raises(ConfirmationHaltedError):
                thawing.result(WAIT_S)
    assert [(one.step, one.failed) for one in reports.values()] == [(STEPS, None)] * 2
    assert second.joins == {(member.uid, 2): 1 for member in MEMBERS}
    assert all(load_state(both.folder.trial(member.uid), STEPS) for member in MEMBERS)
    told = Counter((e.type, e.attempt) for e in read_events(both.folder.events))
    assert told == {("trial_started", 1): 2, ("trial_started", 2): 2, ("trial_report", 2): 10}


def test_a_driver_that_lost_its_search_says_of_no_member_that_it_failed(
    tiny_folder: Path, tmp_path: Path
) -> None:
    both = TakenOver(tmp_path, SearchConfig.model_validate(small_config(tiny_folder)))

    class Refusing(Calls):
        def ask(self, method: str, *arguments: Any) -> Any:
            if method == "join":
                both.taken.set()
                raise TaskError("too long")
            return super().ask(method, *arguments)

    with pytest.raises(SearchLockedError):
        both.train(Refusing(both.engine), both.fence)
    assert count_reports(both.folder) == 0
