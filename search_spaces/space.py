"""A search space: what is searched, as plain data that mirrors `TrialConfig.to_dict()`.

    strategy:
      triggers:
        every: {kind: every, k: {int: {low: 4, high: 12}}, m: {choice: [1, 2, 4]}}
    optim:
      lr: {float: {low: 0.005, high: 0.05, log: true}}
      batch_rows: 8

A scalar or a list is a fixed value. `{choice: [...]}`, `{int: {low, high, step, log}}` and
`{float: {low, high, log}}` are axes; an axis' name, in Optuna and everywhere, is its dotted
path (`strategy.triggers.every.k`), or its `name`. `{one_of: {label: subtree}, name: ...}`
is an axis over labels: the chosen subtree's fields are merged at this place, and the axes
of the others do not exist in that sample. `{same_as: dotted.name}` is the value that an
earlier axis took. Any other mapping holds nested fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from search_spaces.compiler import Compiler, condition_text
from search_spaces.errors import SpaceError
from search_spaces.nodes import Condition, Distribution, Node, Suggests, count, draw
from search_spaces.outline import outline


class Axis(NamedTuple):
    """A searched parameter.

    `condition` holds alternatives: the axis exists where all (axis, label) pairs of one of
    them hold, and always where that one is empty.
    """

    name: str
    distribution: Distribution
    condition: tuple[Condition, ...]

    @property
    def when(self) -> str:
        """The condition in words: `always`, or `strategy.position=every`."""
        return " or ".join(condition_text(pairs) for pairs in self.condition)


@dataclass(frozen=True)
class Space:
    """A checked space. Two spaces are equal where their trees are.

    Args:
        tree: nested plain data; a copy is kept.

    Raises:
        SpaceError: with every structural problem of the tree.
    """

    tree: Mapping[str, Any]
    _root: Node = field(init=False, repr=False, compare=False)
    _axes: tuple[Axis, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tree = _plain(self.tree)
        compiler = Compiler()
        root = compiler.compile(tree)
        if compiler.problems:
            raise SpaceError(compiler.problems)
        object.__setattr__(self, "tree", tree)
        object.__setattr__(self, "_root", root)
        object.__setattr__(
            self,
            "_axes",
            tuple(
                Axis(name, declared.distribution, tuple(declared.conditions))
                for name, declared in compiler.axes.items()
            ),
        )

    def sample(self, trial: Suggests) -> dict[str, Any]:
        """One configuration as plain data for `TrialConfig.from_dict`.

        Args:
            trial: any object with Optuna's suggest methods, such as a `Trial` or, to replay
                known parameters, a `FixedTrial`.
        """
        sample: dict[str, Any] = draw(self._root, trial, {})
        return sample

    def axes(self) -> list[Axis]:
        """The searched parameters in declared order, each once."""
        return list(self._axes)

    def size(self) -> int | float:
        """Number of configurations; infinite where a float has a range."""
        return count(self._root)

    def __str__(self) -> str:
        return outline(self._root)


def _plain(value: Any) -> Any:
    """A copy in dicts and lists, so that YAML and Python write the same space."""
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    return value
