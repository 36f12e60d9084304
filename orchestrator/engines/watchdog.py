"""Whether an engine hangs: a step that takes far longer than its steps do.

    nothing answered for DEAF_S                               its process is stuck, or cut off
    a step has gone on for longer than its deadline           its device is stuck

The deadline comes from the engine's own steps, and is never below minutes: a first step may
compile, and a long row may come late. A hung engine is killed; its trials go on elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

DEAF_S = 90.0
_LEAST_S = 300.0
_STEPS = 30.0  # a deadline in longest steps


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """What an engine tells at each heartbeat, at once, whatever its model does.

    Args:
        busy_s: how long it has been at its current step; 0 between steps.
        longest_s: the longest of its latest steps; 0 before the first.
        trials: uid to holder, of all that are in it.
        tokens_at_once: slots of one forward; None before the model is loaded.
        slots_per_s: slots trained per second so far; None before the first step.
        train_s, evaluate_s, idle_s, trial_steps: as in `LoopClock`.
    """

    busy_s: float = 0.0
    longest_s: float = 0.0
    trials: dict[str, str]
    tokens_at_once: int | None = None
    slots_per_s: float | None = None
    train_s: float = 0.0
    evaluate_s: float = 0.0
    idle_s: float = 0.0
    trial_steps: int = 0


def deadline_s(longest_s: float, step_timeout_s: float | None) -> float:
    """When a step hangs, in seconds from its begin.

    Args:
        longest_s: the longest of the engine's latest steps.
        step_timeout_s: `engine.step_timeout_s`, which goes before all else.
    """
    return step_timeout_s or max(_LEAST_S, _STEPS * longest_s)


def why_hung(pulse: Pulse, silent_s: float, step_timeout_s: float | None) -> str | None:
    """Why an engine is given up; None for one that works.

    Args:
        pulse: its last.
        silent_s: since when it has not answered.
        step_timeout_s: as in `deadline_s`.
    """
    if silent_s > DEAF_S:
        return f"it has not answered for {silent_s:.0f} s"
    limit_s = deadline_s(pulse.longest_s, step_timeout_s)
    if pulse.busy_s > limit_s:
        return (
            f"a step has gone on for {pulse.busy_s:.0f} s, and its deadline is {limit_s:.0f} s "
            "(engine.step_timeout_s)"
        )
    return None
