"""Constraints between axes: what a single axis' range cannot say.

    constraints:
      - strategy.groups * strategy.m <= 16
      - strategy.triggers.every.k > strategy.triggers.every.m
      - strategy.position != start or strategy.position_rule != own

One comparison, or several of which one must hold, with `or` between them. Each side is a number,
an axis, or a product of these. An axis of choices that are no numbers has no order: it is compared
by `==` or `!=` with one of its choices or with another such axis. A comparison holds wherever one
of its axes does not exist in a sample. A sample that breaks a constraint is drawn again.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

from optuna.distributions import CategoricalDistribution

from search_spaces.errors import Problem, did_you_mean, shown
from search_spaces.nodes import Distribution

KEY = "constraints"  # of a space's tree
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = MappingProxyType(
    {
        "<=": operator.le,
        ">=": operator.ge,
        "==": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        ">": operator.gt,
    }
)
_QUOTED = r"'[^']*'|\"[^\"]*\""  # whatever is inside is one choice
_SIDE = rf"((?:{_QUOTED}|[^<>=!'\"])+)"
_TEXT = re.compile(rf"{_SIDE}(<=|>=|==|!=|<|>){_SIDE}")
_OR = re.compile(rf"((?:{_QUOTED}|[^'\"])+?)(?:\s+or\s+|$)")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE]-?\d+)?")


@dataclass(frozen=True)
class Choice:
    """A choice of an axis, as a side of a comparison."""

    value: Any


Term: TypeAlias = str | float | Choice  # a text is an axis' name
Side: TypeAlias = tuple[Term, ...]


@dataclass(frozen=True)
class Comparison:
    """Two sides.

    Args:
        left, right: the factors of each side.
        compare: between the two.
    """

    left: Side
    compare: str
    right: Side

    @property
    def axes(self) -> list[str]:
        """The axes that it names."""
        return [term for term in (*self.left, *self.right) if isinstance(term, str)]

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether a sample's parameters keep it."""
        if any(name not in params for name in self.axes):
            return True
        return _COMPARE[self.compare](_value(self.left, params), _value(self.right, params))


@dataclass(frozen=True)
class Constraint:
    """One constraint.

    Args:
        text: as it was written.
        anyone: comparisons, of which at least one must hold.
    """

    text: str
    anyone: tuple[Comparison, ...]

    @property
    def axes(self) -> list[str]:
        """The axes that it names, each once."""
        return list(dict.fromkeys(name for one in self.anyone for name in one.axes))

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Whether a sample's parameters keep it."""
        return any(one.holds(params) for one in self.anyone)


class _WrongError(Exception):
    """What is wrong with a constraint, and what to do about it."""


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
        try:
            found.append(_read(text, axes))
        except _WrongError as error:
            said, remedy = error.args
            location = (KEY, place)
            path = f"{KEY}.{place}"
            problems.append(
                Problem(path=path, got=shown(text), wrong=said, remedy=remedy, location=location)
            )
    return found, problems


def _read(text: object, axes: Mapping[str, Distribution]) -> Constraint:
    written = text.strip() if isinstance(text, str) else ""
    parts = [_TEXT.fullmatch(part) for part in _OR.findall(written)]
    found = [(part[1], part[2], part[3]) for part in parts if part is not None]
    if not found or len(found) < len(parts) or _OR.sub("", written):
        raise _WrongError("expected two sides", "write `axis.one * 2 <= axis.two`")
    return Constraint(written, tuple(_comparison(*sides, axes=axes) for sides in found))


def _comparison(
    left: str, compare: str, right: str, *, axes: Mapping[str, Distribution]
) -> Comparison:
    for one, other in ((left.strip(), right.strip()), (right.strip(), left.strip())):
        if one in axes and not _is_of_numbers(axes[one]):
            return Comparison((one,), _equality(one, compare), _chosen(other, one, axes))
    sides = _terms(left), _terms(right)
    for name in [term for side in sides for term in side if isinstance(term, str)]:
        if name not in axes:
            raise _WrongError(f"{name!r} is no axis of this space", did_you_mean(name, axes))
        if not _is_of_numbers(axes[name]):
            raise _WrongError(
                f"{name} takes values that are no numbers, which have no product",
                f"compare it alone, for example `{name} != {_choices_of(name, axes)[0]}`",
            )
    if not any(isinstance(term, str) for side in sides for term in side):
        raise _WrongError("it names no axis", "name at least one")
    return Comparison(sides[0], compare, sides[1])


def _equality(name: str, compare: str) -> str:
    if compare not in ("==", "!="):
        raise _WrongError(
            f"{name} takes values that are no numbers, which `{compare}` cannot order",
            "compare it by `==` or `!=`",
        )
    return compare


def _chosen(word: str, name: str, axes: Mapping[str, Distribution]) -> Side:
    """What an axis of choices is compared with: another such axis, or one of its choices."""
    if word in axes and not _is_of_numbers(axes[word]):
        return (word,)
    distribution = axes[name]
    assert isinstance(distribution, CategoricalDistribution)
    for choice in distribution.choices:
        if word == _written(choice) or _is_text_of(word, choice):
            return (Choice(choice),)
    raise _WrongError(
        f"{_unquoted(word)!r} is no choice of {name}",
        f"write one of {', '.join(_choices_of(name, axes))}",
    )


def _choices_of(name: str, axes: Mapping[str, Distribution]) -> list[str]:
    """The choices of an axis as they are to be written."""
    distribution = axes[name]
    assert isinstance(distribution, CategoricalDistribution)
    return [_written(choice) for choice in distribution.choices]


def _written(choice: object) -> str:
    if isinstance(choice, str):
        plain = re.fullmatch(r"[^<>=!'\"*\s]+", choice)
        return choice if plain else f'"{choice}"' if "'" in choice else f"'{choice}'"
    return json.dumps(choice)


def _is_text_of(word: str, choice: object) -> bool:
    """Whether a word means a choice though it could be written better: `1` is 1.0."""
    if isinstance(choice, str):
        return _unquoted(word) == choice
    is_number = isinstance(choice, int | float) and not isinstance(choice, bool)
    return is_number and _NUMBER.fullmatch(word) is not None and float(word) == choice


def _unquoted(word: str) -> str:
    return word[1:-1] if re.fullmatch(_QUOTED, word) else word


def _is_of_numbers(distribution: Distribution) -> bool:
    choices = distribution.choices if isinstance(distribution, CategoricalDistribution) else ()
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in choices)


def _terms(side: str) -> Side:
    words = [word.strip() for word in side.split("*")]
    return tuple(float(word) if _NUMBER.fullmatch(word) else word for word in words)


def _value(side: Side, params: Mapping[str, Any]) -> Any:
    """A choice as it is, else the product of the numbers."""
    values = [
        term.value if isinstance(term, Choice) else params[term] if isinstance(term, str) else term
        for term in side
    ]
    return values[0] if len(values) == 1 else math.prod(values)
