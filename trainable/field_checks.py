"""Checks of single fields that the method's frozen dataclasses share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from enum import StrEnum
from typing import Any, TypeVar

from trainable.errors import StrategyError

Member = TypeVar("Member", bound=StrEnum)


def set_field(instance: object, name: str, value: object) -> None:
    """Normalise a field inside a frozen dataclass."""
    object.__setattr__(instance, name, value)


def member(enum: type[Member], name: str, value: Any) -> Member:
    """The enum's member. Raises StrategyError, listing what there is."""
    try:
        return enum(value)
    except ValueError:
        raise StrategyError(f"{name}={value!r} is unknown; one of {', '.join(enum)}") from None


def require_count(name: str, value: object, low: int = 1, *, high: int) -> None:
    """Raise StrategyError unless `value` is a whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise StrategyError(f"{name}={value!r} must be a whole number of at least {low}")
    if value > high:
        raise StrategyError(f"{name}={value} must be a whole number of at most {high}")


def require_share(name: str, value: object) -> None:
    """Raise StrategyError unless `value` is a number above 0 and at most 1."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 < value <= 1:  # type: ignore[arg-type, operator]
        raise StrategyError(f"{name}={value!r} must be a number above 0 and at most 1")


def refuse_unknown(cls: Any, data: Any, path: str) -> None:
    """Raise StrategyError unless `data` is a mapping with fields of `cls` alone."""
    if not isinstance(data, Mapping):
        raise StrategyError(f"{path} must be a mapping, got {data!r}")
    known = [field.name for field in fields(cls)]
    unknown = [key for key in data if key not in known]
    if unknown:
        raise StrategyError(f"{path}.{unknown[0]} is unknown; known: {', '.join(known)}")
