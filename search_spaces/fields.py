"""The fields that a trial has, read off `TrialConfig` itself.

Record   a fixed set of fields        the trial, strategy, a trigger, init, optim
Named    free names, one shape each   strategy.triggers
None     a plain value                strategy.triggers.every.k, optim.lr, seed

A field added there is known here without a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from trainable.trial import TrialConfig


@dataclass(frozen=True)
class Record:
    """A mapping with these fields and no others."""

    fields: Mapping[str, Shape]


@dataclass(frozen=True)
class Named:
    """A mapping from names that the user chooses."""

    each: Shape


Shape: TypeAlias = Record | Named | None


def trial_shape() -> Record:
    """The shape of a whole trial, as `TrialConfig.from_dict` takes it."""
    shape = _shape(TrialConfig)
    assert isinstance(shape, Record)
    return shape


def _shape(annotation: Any) -> Shape:
    if is_dataclass(annotation):
        hints = get_type_hints(annotation)
        return Record({field.name: _shape(hints[field.name]) for field in fields(annotation)})
    if get_origin(annotation) is Mapping:
        return Named(_shape(get_args(annotation)[1]))
    return None
