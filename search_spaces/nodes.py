"""A compiled space: a tree of five kinds of nodes, and the walk that samples it.

    Fixed    a value                        Draw    a value that the sampler suggests
    Copy     what another axis took         OneOf   a label, then its subtree
    Fields   nested fields, in order; a OneOf may stand among them and adds its own

The compiler has checked everything, so that the walk cannot fail.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

Distribution: TypeAlias = CategoricalDistribution | IntDistribution | FloatDistribution
Condition: TypeAlias = tuple[tuple[str, str], ...]  # (axis, label) pairs that must all hold


class Suggests(Protocol):
    """What a space asks of a trial: Optuna's `Trial` and `FixedTrial` have it."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number, both ends included."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number, both ends included."""


@dataclass(frozen=True)
class Fixed:
    """A value that every sample has."""

    value: Any


@dataclass(frozen=True)
class Draw:
    """An axis: a named parameter with a distribution."""

    name: str
    distribution: Distribution


@dataclass(frozen=True)
class Copy:
    """The value that the axis `source` took in the same sample."""

    source: str


@dataclass(frozen=True)
class OneOf:
    """An axis over labels; only the chosen label's subtree exists in a sample."""

    name: str
    branches: Mapping[str, Node]


@dataclass(frozen=True)
class Fields:
    """Nested fields in order; the part without a key is a OneOf merged at this place."""

    parts: tuple[tuple[str | None, Node], ...]


Node: TypeAlias = Fixed | Draw | Copy | OneOf | Fields


def draw(node: Node, trial: Suggests, taken: dict[str, Any]) -> Any:
    """Sample a tree define-by-run.

    Args:
        node: the tree's root.
        trial: makes the suggestions.
        taken: parameter name to value; filled on the way.

    Returns:
        Fresh plain data, which the caller may change.
    """
    match node:
        case Fixed(value):
            return copy.deepcopy(value)
        case Copy(source):
            return taken[source]
        case Draw(name, distribution):
            taken[name] = _suggest(trial, name, distribution)
            return taken[name]
        case OneOf(name, branches):
            taken[name] = trial.suggest_categorical(name, list(branches))
            return draw(branches[taken[name]], trial, taken)
        case Fields(parts):
            sample: dict[str, Any] = {}
            for key, child in parts:
                value = draw(child, trial, taken)
                _merge(sample, value if key is None else {key: value})
            return sample


def count(node: Node) -> int | float:
    """Configurations of a tree; infinite where a float has a range."""
    match node:
        case Fixed() | Copy():
            return 1
        case Draw(_, distribution):
            return _values(distribution)
        case OneOf(_, branches):
            return sum(count(branch) for branch in branches.values())
        case Fields(parts):
            return math.prod(count(child) for _, child in parts)


def _suggest(trial: Suggests, name: str, distribution: Distribution) -> Any:
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(name, list(distribution.choices))
        case IntDistribution(low=low, high=high, step=step, log=log):
            return trial.suggest_int(name, low, high, step=step, log=log)
        case FloatDistribution(low=low, high=high, log=log):
            return trial.suggest_float(name, low, high, log=log)


def _values(distribution: Distribution) -> int | float:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return len(choices)
        case IntDistribution(low=low, high=high, step=step):
            return (high - low) // step + 1
        case FloatDistribution():
            return 1 if distribution.single() else math.inf


def _merge(into: dict[str, Any], fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
