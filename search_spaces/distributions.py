"""From `{choice: ...}`, `{int: ...}` and `{float: ...}` to Optuna's distributions.

Each reader tells everything that it finds wrong to `refuse` and then returns None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces.errors import NOTHING, did_you_mean

_LARGEST_INT = 2**53  # Optuna stores every number as a float64

# Takes note of a problem: the key below the node's word, the value, what is wrong, a remedy.
Refuse: TypeAlias = Callable[[str | int, object, str, str], None]


def read_choice(choices: object, refuse: Refuse) -> CategoricalDistribution | None:
    """Read the list of a `choice`."""
    if not isinstance(choices, list) or not choices:
        refuse("", choices, "expected a list of at least one value", "write [1, 2]")
        return None
    clean = True
    for index, choice in enumerate(choices):
        if not is_scalar(choice):
            remedy = "use `one_of` for whole subtrees"
            refuse(index, choice, "a choice must be a plain, finite value", remedy)
            clean = False
        elif choice in choices[:index]:
            refuse(index, choice, "the value is there twice", "remove one")
            clean = False
    return CategoricalDistribution(choices) if clean else None


def read_int(spec: object, refuse: Refuse) -> IntDistribution | None:
    """Read the range of an `int`."""
    found = _range(spec, ("low", "high", "step", "log"), _whole, "a whole number", refuse)
    if found is None:
        return None
    low, high, log, step = found["low"], found["high"], found["log"], found.get("step", 1)
    if step < 1:
        refuse("step", step, "expected at least 1", "leave it out for 1")
    elif log and step != 1:
        refuse("step", step, "`log` and a step exclude each other", "leave one of them out")
    elif (high - low) % step:
        last = high - (high - low) % step
        refuse("high", high, f"steps of {step} from {low} never reach it", f"write high: {last}")
    else:
        return IntDistribution(low, high, log=log, step=step)
    return None


def read_float(spec: object, refuse: Refuse) -> FloatDistribution | None:
    """Read the range of a `float`."""
    found = _range(spec, ("low", "high", "log"), _finite, "a finite number", refuse)
    if found is None:
        return None
    return FloatDistribution(float(found["low"]), float(found["high"]), log=found["log"])


def is_scalar(value: object) -> bool:
    """Whether the value is plain: text, a truth value, a finite number or null."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | int)


def _range(
    spec: object, keys: tuple[str, ...], fits: Any, kind: str, refuse: Refuse
) -> dict[str, Any] | None:
    """Check what both kinds of range share; the numbers and `log`, or None."""
    if not isinstance(spec, Mapping):
        refuse("", spec, "expected a range", "write {low: 1, high: 8}")
        return None
    unknown = [key for key in spec if key not in keys]
    for key in unknown:
        refuse(str(key), spec[key], "the key is unknown", did_you_mean(str(key), keys))
    missing = [key for key in ("low", "high") if key not in spec]
    for key in missing:
        refuse(key, NOTHING, f"expected {kind}", f"add {key}: to the range")
    numbers = {key: spec[key] for key in spec if key in keys and key != "log"}
    crooked = [key for key, value in numbers.items() if not fits(value)]
    for key in crooked:
        refuse(key, numbers[key], f"expected {kind}", "write a number such as 8")
    log = spec.get("log", False)
    if not isinstance(log, bool):
        refuse("log", log, "expected true or false", "leave it out for false")
    if unknown or missing or crooked or not isinstance(log, bool):
        return None
    return {**numbers, "log": log} if _ordered(numbers, log, refuse) else None


def _ordered(numbers: Mapping[str, Any], log: bool, refuse: Refuse) -> bool:
    low, high = numbers["low"], numbers["high"]
    if low > high:
        refuse("low", low, f"expected at most high, which is {high}", "swap the two")
    if log and low <= 0:
        refuse("low", low, "a logarithmic range must start above 0", "raise low or drop `log`")
    return bool(low <= high and not (log and low <= 0))


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_INT


def _finite(value: object) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= _LARGEST_INT
    return isinstance(value, float) and math.isfinite(value)
