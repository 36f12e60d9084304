"""Where a known configuration lies in a space: the parameters that give it, if any do.

A search tries the paper's configurations first. Their strategy must come out exactly; what
else a trial has, such as a learning rate, is taken where the space has it and left to be
drawn where it has not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces.nodes import Copy, Distribution, Draw, Fields, Fixed, Node, OneOf
from search_spaces.space import Space
from trainable.errors import LatentuneError
from trainable.trial import TrialConfig

_ABSENT: Final = object()
_EXACT = "strategy"  # the part of a trial that must come out as it is


def params_of(space: Space, config: TrialConfig) -> dict[str, Any] | None:
    """The parameters of `space` that give a configuration's strategy; None where none do."""
    for params in _matches(space.root, config.to_dict(), (), {}):
        try:
            found = TrialConfig.from_dict(space.sample(_Given(params)))
        except LatentuneError:
            continue
        if found.strategy == config.strategy:
            return params
    return None


def _matches(
    node: Node, data: Any, path: tuple[str, ...], taken: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """All ways to choose axes below a node such that `data` may come out."""
    loose = path[:1] not in ((), (_EXACT,))
    match node:
        case Fixed(value):
            if loose or value == data or data is _ABSENT:
                yield taken
        case Copy(source):
            if loose or taken.get(source) == data:
                yield taken
        case Draw(name, distribution):
            if data is not _ABSENT and _holds(distribution, data):
                yield taken | {name: data}
            elif loose:
                yield taken
        case OneOf(name, branches):
            for label, branch in branches.items():
                yield from _matches(branch, data, path, taken | {name: label})
        case Fields(parts):
            yield from _match_all(parts, data, path, taken)


def _match_all(
    parts: Sequence[tuple[str | None, Node]],
    data: Any,
    path: tuple[str, ...],
    taken: dict[str, Any],
) -> Iterator[dict[str, Any]]:
    if not parts:
        yield taken
        return
    (key, node), rest = parts[0], parts[1:]
    below = data.get(key, _ABSENT) if isinstance(data, Mapping) and key is not None else _ABSENT
    deeper = path if key is None else (*path, key)
    for more in _matches(node, data if key is None else below, deeper, taken):
        yield from _match_all(rest, data, path, more)


def _holds(distribution: Distribution, value: Any) -> bool:
    match distribution:
        case CategoricalDistribution(choices=choices):
            return any(type(one) is type(value) and one == value for one in choices)
        case IntDistribution(low=low, high=high, step=step):
            whole = isinstance(value, int) and not isinstance(value, bool)
            return whole and low <= value <= high and (value - low) % step == 0
        case FloatDistribution(low=low, high=high):
            return isinstance(value, int | float) and low <= value <= high


class _Given:
    """Suggests what is given, and the first value of the axes that are not."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._params.get(name, choices[0])

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._params.get(name, low))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._params.get(name, low))
