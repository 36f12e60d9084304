"""A space as readable text, one line per field, branches indented.

strategy.position: one of
  none
    strategy.triggers = {}
  every
    strategy.triggers.every.kind = every
    strategy.triggers.every.k: 4 to 12
optim.lr: 0.005 to 0.05, log

Every path is written out, so that a line can be searched for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces.nodes import Copy, Distribution, Draw, Fields, Fixed, Node, OneOf

_INDENT = "  "


def outline(node: Node) -> str:
    """The tree's text, without a final newline."""
    return "\n".join(_lines(node, ""))


def _lines(node: Node, path: str) -> Iterator[str]:
    match node:
        case Fixed(value):
            yield f"{path} = {_value(value)}"
        case Copy(source):
            yield f"{path}: same as {source}"
        case Draw(name, distribution):
            alias = "" if name == path else f" (named {name})"
            yield f"{path}: {_range(distribution)}{alias}"
        case OneOf(name, branches):
            yield f"{name}: one of"
            for label, branch in branches.items():
                yield f"{_INDENT}{label}"
                yield from (_INDENT * 2 + line for line in _lines(branch, path))
        case Fields(()):
            yield f"{path or 'trial'} = {{}}"
        case Fields(parts):
            for key, child in parts:
                yield from _lines(child, ".".join(part for part in (path, key) if part))


def _range(distribution: Distribution) -> str:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return " | ".join(_value(choice) for choice in choices)
        case IntDistribution(low=low, high=high, step=step, log=log):
            return f"{low} to {high}{f', step {step}' if step > 1 else ''}{', log' if log else ''}"
        case FloatDistribution(low=low, high=high, log=log):
            return f"{low} to {high}{', log' if log else ''}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value.isidentifier() else repr(value)
