"""Leases end by themselves, on a clock that only this engine has."""

from __future__ import annotations

import pytest

from orchestrator.engines.leases import Leases


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(clock: Clock) -> Leases:
    return Leases(60.0, clock)


def test_an_engine_ends_with_its_last_search(leases: Leases) -> None:
    leases.renew("a")
    leases.renew("b")
    assert not leases.release("a")
    assert not leases.release("a")
    assert leases.release("b")


def test_a_driver_that_was_killed_leaves_nothing(leases: Leases, clock: Clock) -> None:
    leases.renew("killed")
    leases.renew("alive")
    clock.now += 50
    leases.renew("alive")
    assert leases.expired() == []
    clock.now += 20
    assert leases.expired() == ["killed"]
    assert leases.holders == ["alive"]
    clock.now += 41
    assert leases.expired() == ["alive"]
    assert not leases.is_unused
    clock.now += 61
    assert leases.is_unused


def test_whether_an_engine_is_unused_keeps_no_ended_lease_to_itself(
    leases: Leases, clock: Clock
) -> None:
    """The trials of a driver that is gone leave when `expired` names it."""
    leases.renew("killed")
    clock.now += 61
    assert not leases.is_unused
    assert leases.expired() == ["killed"]


def test_a_new_engine_waits_for_its_first_lease(leases: Leases, clock: Clock) -> None:
    clock.now += 59
    assert not leases.is_unused
    clock.now += 2
    assert leases.is_unused
    leases.renew("late")
    assert not leases.is_unused


def test_a_released_engine_waits_for_the_next_search(leases: Leases, clock: Clock) -> None:
    leases.renew("a")
    clock.now += 1000
    leases.renew("a")
    leases.release("a")
    assert not leases.is_unused
    clock.now += 61
    assert leases.is_unused
