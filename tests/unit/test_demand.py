"""What asks an autoscaler for GPUs: tasks that wait for them, on a Ray that is made up."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.engines import ray_fleet
from orchestrator.engines.ray_fleet import Demand


class MadeUpTasks:
    """Tasks that wait for a place, by their numbers."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[dict[str, int]] = []
        self.placed: set[int] = set()
        self.cancelled: set[int] = set()

    @property
    def waiting(self) -> set[int]:
        return set(range(len(self.asked))) - self.placed - self.cancelled

    def wait(self, tasks: list[int], timeout: float) -> tuple[list[int], list[int]]:
        assert timeout == 0  # a driver's look waits for nothing
        done = [task for task in tasks if task in self.placed]
        return done, [task for task in tasks if task not in self.placed]

    def cancel(self, task: int) -> None:
        self.cancelled.add(task)

    def remote(self, function: Any) -> _Asking:
        return _Asking(self)


class _Asking:
    def __init__(self, tasks: MadeUpTasks, **options: int) -> None:
        self._tasks, self._options = tasks, options

    def options(self, **options: int) -> _Asking:
        return _Asking(self._tasks, **options)

    def remote(self) -> int:
        self._tasks.asked.append(self._options)
        return len(self._tasks.asked) - 1


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> MadeUpTasks:
    made = MadeUpTasks()
    monkeypatch.setattr(ray_fleet, "ray", made)
    return made


def test_it_asks_for_what_is_missing_and_no_more(tasks: MadeUpTasks) -> None:
    demand = Demand(2, lambda: tasks.now)
    for count in (0, 2, 2, 3):
        demand(count)
        assert len(tasks.waiting) == count
    assert tasks.asked == [{"num_cpus": 1, "num_gpus": 2, "max_retries": 0}] * 3
    assert tasks.cancelled == set()


def test_it_takes_back_what_is_needed_no_more(tasks: MadeUpTasks) -> None:
    demand = Demand(1, lambda: tasks.now)
    demand(3)
    demand(1)
    assert tasks.cancelled == {0, 1, 2}
    assert tasks.waiting == {3}
    demand(0)
    assert tasks.waiting == set()


def test_it_is_quiet_for_a_while_after_a_node_came(tasks: MadeUpTasks) -> None:
    demand = Demand(1, lambda: tasks.now)
    demand(2)
    tasks.placed.add(0)
    demand(2)
    tasks.now = 19.0
    demand(2)
    assert tasks.waiting == {1}  # still asked for; what was placed is to be an engine
    tasks.now = 21.0
    demand(2)
    assert tasks.waiting == {1, 2}
    demand(1)
    assert tasks.waiting == {3}
