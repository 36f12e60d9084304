"""Which engines hang, by their pulses and by their steps."""

from __future__ import annotations

import pytest

from orchestrator.engines.watchdog import DEAF_S, Pulse, deadline_s, why_hung
from trainable.step_watch import StepWatch


@pytest.mark.parametrize(
    ("longest", "asked", "limit"),
    [(0.0, None, 300.0), (1.0, None, 300.0), (20.0, None, 600.0), (20.0, 45.0, 45.0)],
)
def test_the_deadline_comes_from_measured_steps(
    longest: float, asked: float | None, limit: float
) -> None:
    assert deadline_s(longest, asked) == limit


def test_a_step_beyond_its_deadline_hangs() -> None:
    pulse = Pulse(busy_s=301.0, longest_s=2.0, trials={})
    told = why_hung(pulse, 0.0, None)
    assert told is not None and "301 s" in told and "300 s" in told
    assert why_hung(pulse, 0.0, 600.0) is None
    assert why_hung(Pulse(busy_s=299.0, trials={}), 0.0, None) is None


def test_an_engine_that_says_nothing_hangs() -> None:
    pulse = Pulse(trials={})
    assert why_hung(pulse, DEAF_S - 1, None) is None
    told = why_hung(pulse, DEAF_S + 1, None)
    assert told is not None and "not answered" in told


def test_a_watch_sees_work_that_goes_on() -> None:
    clock = [0.0]
    watch = StepWatch(lambda: clock[0])
    assert watch.busy_s == watch.longest_s == 0.0
    for seconds in (3.0, 1.0):
        with watch.watched():
            clock[0] += seconds
            assert watch.busy_s == seconds
    assert (watch.busy_s, watch.longest_s) == (0.0, 3.0)
    with pytest.raises(ZeroDivisionError), watch.watched():
        raise ZeroDivisionError
    assert watch.busy_s == 0.0
