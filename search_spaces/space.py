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
earlier axis took. Any other mapping holds nested fields. `constraints`, beside the trial's
fields, lists what must hold between axes: `strategy.groups * strategy.m <= 16`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from search_spaces.compiler import Compiler, condition_text
from search_spaces.constraints import KEY, Constraint, read_constraints
from search_spaces.errors import ConstraintError, SpaceError
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
    _constraints: tuple[Constraint, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tree = _plain(self.tree)
        compiler = Compiler()
        fields = tree
        if isinstance(tree, dict):
            fields = {key: child for key, child in tree.items() if key != KEY}
        root = compiler.compile(fields)
        names = {name: declared.distribution for name, declared in compiler.axes.items()}
        spec = tree[KEY] if fields is not tree and KEY in tree else []
        constraints, problems = read_constraints(spec, names)
        if compiler.problems or problems:
            raise SpaceError([*compiler.problems, *problems])
        object.__setattr__(self, "tree", tree)
        object.__setattr__(self, "_root", root)
        object.__setattr__(self, "_constraints", tuple(constraints))
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

        Raises:
            ConstraintError: where the sample breaks a constraint.
        """
        taken: dict[str, Any] = {}
        sample: dict[str, Any] = draw(self._root, trial, taken)
        for constraint in self._constraints:
            if not constraint.holds(taken):
                got = ", ".join(f"{name}={taken[name]}" for name in constraint.axes)
                raise ConstraintError(f"the sample breaks the constraint {constraint.text}: {got}")
        return sample

    @property
    def root(self) -> Node:
        """The compiled tree."""
        return self._root

    @property
    def constraints(self) -> list[str]:
        """What must hold between axes, as it was written."""
        return [constraint.text for constraint in self._constraints]

    def axes(self) -> list[Axis]:
        """The searched parameters in declared order, each once."""
        return list(self._axes)

    def size(self) -> int | float:
        """Number of configurations, constraints aside; infinite where a float has a range."""
        return count(self._root)

    def __str__(self) -> str:
        lines = [outline(self._root), *(f"constraint: {text}" for text in self.constraints)]
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    """A copy in dicts and lists, so that YAML and Python write the same space."""
    if isinstance(value, Mapping):
        return {key: _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    return value
