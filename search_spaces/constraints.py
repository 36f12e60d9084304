"""Constraints between axes: what a single axis' range cannot say.

    constraints:
      - strategy.groups * strategy.m <= 16
      - strategy.triggers.every.k > strategy.triggers.every.m

Two sides, each a number, an axis, or a product of these. A constraint holds wherever one of
its axes does not exist in a sample. A sample that breaks one is drawn again.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from optuna.distributions import CategoricalDistribution

from search_spaces.errors import Problem, did_you_mean, shown
from search_spaces.nodes import Distribution

KEY = "constraints"  # of a space's tree
_COMPARE: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {
        "<=": operator.le,
        ">=": operator.ge,
        "==": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        ">": operator.gt,
    }
)
_TEXT = re.compile(r"([^<>=!]+)(<=|>=|==|!=|<|>)([^<>=!]+)")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE]-?\d+)?")


@dataclass(frozen=True)
class Constraint:
    """One constraint.

    Args:
        text: as it was written.
        left, right: the factors of each side: axes and numbers.
        compare: between the two.
    """

    text: str
    left: tuple[str | float, ...]
    compare: str
    right: tuple[str | float, ...]

    @property
    def axes(self) -> list[str]:
        """The axes that it names."""
        return [term for term in (*self.left, *self.right) if isinstance(term, str)]

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether a sample's parameters keep it."""
        if any(name not in params for name in self.axes):
            return True
        return _COMPARE[self.compare](_product(self.left, params), _product(self.right, params))


def read_constraints(
    spec: object, axes: Mapping[str, Distribution]
) -> tuple[list[Constraint], list[Problem]]:
    """Read a tree's constraints.

    Args:
        axes: the axes that there are, by name.
    """
    if not isinstance(spec, list):
        wrong, remedy = "expected a list of texts", 'write ["axis.one <= axis.two"]'
        problem = Problem(path=KEY, got=shown(spec), wrong=wrong, remedy=remedy, location=(KEY,))
        return [], [problem]
    found: list[Constraint] = []
    problems: list[Problem] = []
    for place, text in enumerate(spec):
        constraint = _parse(text)
        found_wrong = _wrong(constraint, axes)
        if constraint is not None and found_wrong is None:
            found.append(constraint)
            continue
        said, remedy = found_wrong or ("expected two sides", "write `axis.one * 2 <= axis.two`")
        location = (KEY, place)
        path = f"{KEY}.{place}"
        problems.append(
            Problem(path=path, got=shown(text), wrong=said, remedy=remedy, location=location)
        )
    return found, problems


def _parse(text: object) -> Constraint | None:
    match = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    left, compare, right = match.groups()
    return Constraint(str(text), _terms(left), compare, _terms(right))


def _terms(side: str) -> tuple[str | float, ...]:
    words = [word.strip() for word in side.split("*")]
    return tuple(float(word) if _NUMBER.fullmatch(word) else word for word in words)


def _wrong(
    constraint: Constraint | None, axes: Mapping[str, Distribution]
) -> tuple[str, str] | None:
    """What is wrong with a constraint, and what to do about it; None where nothing is."""
    for name in constraint.axes if constraint is not None else ():
        if name not in axes:
            return f"{name!r} is no axis of this space", did_you_mean(name, axes)
        distribution = axes[name]
        choices = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
        if any(isinstance(one, bool) or not isinstance(one, int | float) for one in choices):
            return f"{name} takes values that are no numbers", "name an axis of numbers"
    if constraint is not None and not constraint.axes:
        return "it names no axis", "name at least one"
    return None


def _product(terms: tuple[str | float, ...], params: Mapping[str, Any]) -> float:
    return math.prod(params[term] if isinstance(term, str) else term for term in terms)
