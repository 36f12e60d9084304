"""From a tree of plain data to nodes, with every problem collected on the way.

    strategy:                                   the path in a trial:  strategy
      name: strategy.position                   an axis' name:        strategy.position
      one_of:
        every: {triggers: {every: {k: ...}}}    a path below it:      strategy.triggers.every.k

The same path, and the same axis, may stand in several branches: they exclude each other.
`Place` carries what is known of a spot: its path, its location in the document, the
labels that must have been chosen for it to exist, and the shape that a trial has there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.distributions import CategoricalDistribution, distribution_to_json

from search_spaces.distributions import is_scalar, read_choice, read_float, read_int
from search_spaces.errors import NOTHING, Problem, did_you_mean, shown
from search_spaces.fields import Named, Record, Shape, trial_shape
from search_spaces.nodes import Condition, Copy, Distribution, Draw, Fields, Fixed, Node, OneOf

WORDS = ("choice", "int", "float", "one_of", "same_as")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_AXIS_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_LONGEST_AXIS_NAME = 250  # MLflow's limit for a param's name


@dataclass(frozen=True, kw_only=True)
class Place:
    """A spot in the tree."""

    shape: Shape
    path: tuple[str, ...] = ()
    location: tuple[str | int, ...] = ()
    condition: Condition = ()

    @property
    def dotted(self) -> str:
        """The path as Optuna and MLflow show it."""
        return ".".join(self.path)

    def field(self, key: str, shape: Shape) -> Place:
        """The field `key` of this place."""
        return replace(self, shape=shape, path=(*self.path, key), location=(*self.location, key))

    def branch(self, axis: str, label: str) -> Place:
        """The same place where `axis` took `label`."""
        return replace(
            self,
            location=(*self.location, "one_of", label),
            condition=(*self.condition, (axis, label)),
        )


@dataclass
class Declared:
    """An axis by its name: one distribution, and the conditions under which it exists."""

    distribution: Distribution
    conditions: list[Condition] = field(default_factory=list)


class Compiler:
    """Compiles one tree; `problems` and `axes` are complete after `compile`."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.axes: dict[str, Declared] = {}
        self._written: dict[tuple[str, ...], list[Condition]] = {}
        self._unread: set[str] = set()
        self._copies: list[tuple[str, Place, list[Condition]]] = []

    def compile(self, tree: object) -> Node:
        """Compile the whole tree of a trial."""
        root = self._node(tree, Place(shape=trial_shape()))
        for source, place, known in self._copies:
            self._check_copy(source, place, known)
        return root

    def _node(self, value: object, place: Place) -> Node:
        if not isinstance(value, Mapping):
            return self._fixed(value, place)
        words = [word for word in WORDS if word in value]
        if len(words) > 1:
            self._refuse(place, value, f"{' and '.join(words)} exclude each other", "keep one")
        elif words == ["one_of"]:
            return self._one_of(value, place)
        elif words and place.shape is not None:
            remedy = f"nest its fields here; known: {_known(place.shape)}"
            self._refuse(place, value, f"`{words[0]}` cannot stand for nested fields", remedy)
        elif words:
            return self._axis(words[0], value, place)
        elif place.shape is None:
            self._refuse_word(value, place)
        else:
            return self._fields(value, place)
        return Fixed(None)

    def _fixed(self, value: object, place: Place) -> Node:
        if place.shape is not None:
            remedy = f"nest its fields here; known: {_known(place.shape)}"
            self._refuse(place, value, "expected a mapping of fields", remedy)
        elif not all(is_scalar(item) for item in (value if isinstance(value, list) else [value])):
            self._refuse(place, value, "expected a plain, finite value", "write a text or number")
        self._write(place)
        return Fixed(value)

    def _fields(self, value: Mapping[str, Any], place: Place, skip: tuple[str, ...] = ()) -> Fields:
        parts: list[tuple[str | None, Node]] = []
        for key, child in value.items():
            if key in skip:
                parts += [(None, self._branches(value, place))] if key == "one_of" else []
            elif self._is_field(key, child, place, skip):
                parts.append((key, self._node(child, place.field(key, _below(place.shape, key)))))
        return Fields(tuple(parts))

    def _is_field(self, key: object, child: object, place: Place, skip: tuple[str, ...]) -> bool:
        known = list(place.shape.fields) if isinstance(place.shape, Record) else []
        if key in known:
            return True
        spot = place.field(str(key), None)
        if isinstance(key, str) and "." in key:
            self._refuse(spot, child, "a key holds one name", f"nest it: {_nested(key)}")
        elif isinstance(place.shape, Named):
            if isinstance(key, str) and _NAME.fullmatch(key):
                return True
            remedy = "use letters, digits, _ and -, for example `comma`"
            self._refuse(spot, child, "the name cannot be part of a parameter's name", remedy)
        else:
            remedy = did_you_mean(str(key), [*known, *WORDS, *skip])
            self._refuse(spot, child, "a trial has no such field", remedy)
        return False

    def _one_of(self, value: Mapping[str, Any], place: Place) -> Node:
        siblings = [key for key in value if key not in ("one_of", "name")]
        if not siblings:
            return self._branches(value, place)
        if place.shape is None:
            self._refuse_keys(value, siblings, place, ("one_of", "name"))
            return self._branches(value, place)
        return self._fields(value, place, skip=("one_of", "name"))

    def _branches(self, value: Mapping[str, Any], place: Place) -> Node:
        labels = value["one_of"]
        spot = replace(place, location=(*place.location, "one_of"))
        if not isinstance(labels, Mapping) or not labels:
            remedy = "write one_of: {first: {...}, second: {...}}"
            self._refuse(spot, labels, "expected a mapping from labels to subtrees", remedy)
            return Fixed(None)
        wrong = [label for label in labels if not isinstance(label, str) or not label.strip()]
        for label in wrong:
            self._refuse(spot, label, "a label must be a text", "put a name there")
        if wrong:
            return Fixed(None)
        name = self._declare(value, CategoricalDistribution(list(labels)), place)
        return OneOf(
            name, {key: self._node(tree, place.branch(name, key)) for key, tree in labels.items()}
        )

    def _axis(self, word: str, value: Mapping[str, Any], place: Place) -> Node:
        known = (word,) if word == "same_as" else (word, "name")
        self._refuse_keys(value, [key for key in value if key not in known], place, known)
        self._write(place)
        if word == "same_as":
            return self._copy(value["same_as"], place)
        distribution = self._distribution(word, value[word], place)
        if distribution is None:
            self._unread.add(str(value.get("name", place.dotted)))
            return Fixed(None)
        return Draw(self._declare(value, distribution, place), distribution)

    def _distribution(self, word: str, spec: object, place: Place) -> Distribution | None:
        def refuse(key: str | int, got: object, wrong: str, remedy: str) -> None:
            below = (word,) if key == "" else (word, key)
            path = (*place.path, *map(str, below))
            spot = replace(place, path=path, location=(*place.location, *below))
            self._refuse(spot, got, wrong, remedy)

        readers = {"choice": read_choice, "int": read_int, "float": read_float}
        distribution: Distribution | None = readers[word](spec, refuse)
        return distribution

    def _declare(self, node: Mapping[str, Any], distribution: Distribution, place: Place) -> str:
        """Enter the axis under its name; its problems are noted, its name is returned."""
        name = node.get("name", place.dotted)
        if not isinstance(name, str) or not _AXIS_NAME.fullmatch(name):
            remedy = "add a name such as `name: strategy.position`"
            self._refuse(place, name, "the axis needs a dotted name", remedy)
            return str(name)
        if len(name) > _LONGEST_AXIS_NAME:
            wrong = f"the axis' name has {len(name)} characters, of at most {_LONGEST_AXIS_NAME}"
            self._refuse(place, name, wrong, "add a shorter `name`, or shorten the keys above it")
        declared = self.axes.setdefault(name, Declared(distribution))
        if any(_together(place.condition, other) for other in declared.conditions):
            remedy = f"give this one another, for example `name: {name}_2`"
            self._refuse(place, name, "the axis' name is already taken", remedy)
        elif distribution_to_json(declared.distribution) != distribution_to_json(distribution):
            wrong = f"the axis `{name}` has another distribution in another branch"
            remedy = "make them equal or give this one a `name` of its own"
            self._refuse(place, distribution, wrong, remedy)
        declared.conditions.append(place.condition)
        return name

    def _copy(self, source: object, place: Place) -> Node:
        if isinstance(source, str):
            known = self.axes[source].conditions if source in self.axes else []
            self._copies.append((source, place, list(known)))
        else:
            self._refuse(place, source, "`same_as` needs an axis' name", "write its dotted path")
        return Copy(str(source))

    def _check_copy(self, source: str, place: Place, known: list[Condition]) -> None:
        spot = replace(place, location=(*place.location, "same_as"))
        if source in self._unread:
            return  # its own problem is noted
        if source not in self.axes:
            remedy = did_you_mean(source, self.axes)
            self._refuse(spot, source, "`same_as` names no axis of this space", remedy)
        elif self._covered(place.condition, known):
            return
        elif self._covered(place.condition, self.axes[source].conditions):
            remedy = "put `same_as` on the later of the two"
            self._refuse(spot, source, "the axis comes later than its copy", remedy)
        else:
            where = " or ".join(condition_text(c) for c in self.axes[source].conditions)
            remedy = "copy an axis of this branch"
            self._refuse(spot, source, f"the axis exists only where {where}", remedy)

    def _covered(self, condition: Condition, known: list[Condition]) -> bool:
        """Whether one of the known conditions holds wherever `condition` does."""
        possible = [other for other in known if _together(condition, other)]
        if any(set(other) <= set(condition) for other in possible):
            return True
        for axis in dict.fromkeys(pair[0] for other in possible for pair in other):
            if axis not in dict(condition):
                distribution = self.axes[axis].distribution
                assert isinstance(distribution, CategoricalDistribution)
                labels = [str(label) for label in distribution.choices]
                return all(self._covered((*condition, (axis, lb)), known) for lb in labels)
        return False

    def _write(self, place: Place) -> None:
        """Note that a sample gets a value here, at most once."""
        before = self._written.setdefault(place.path, [])
        if any(_together(place.condition, other) for other in before):
            wrong = "the field is set twice in one sample"
            self._refuse(place, NOTHING, wrong, "set it in the branches or beside them, not both")
        before.append(place.condition)

    def _refuse_word(self, value: Mapping[str, Any], place: Place) -> None:
        remedy = did_you_mean(next((str(key) for key in value), ""), WORDS)
        self._refuse(place, dict(value), "expected a value or one of the node words", remedy)

    def _refuse_keys(
        self, value: Mapping[str, Any], keys: list[str], place: Place, known: tuple[str, ...]
    ) -> None:
        for key in keys:
            remedy = did_you_mean(str(key), known)
            self._refuse(place.field(str(key), None), value[key], "the key is unknown", remedy)

    def _refuse(self, place: Place, got: object, wrong: str, remedy: str) -> None:
        self.problems.append(
            Problem(
                path=place.dotted,
                got=shown(got),
                wrong=wrong,
                remedy=remedy,
                where=f"under {condition_text(place.condition)}" if place.condition else "",
                location=place.location,
            )
        )


def condition_text(condition: Condition) -> str:
    """`strategy.position=every, strategy.sharing=shared`, or `always`."""
    return ", ".join(f"{axis}={label}" for axis, label in condition) or "always"


def _together(one: Condition, other: Condition) -> bool:
    """Whether both conditions can hold in the same sample."""
    labels = dict(one)
    return all(labels.get(axis, label) == label for axis, label in other)


def _below(shape: Shape, key: str) -> Shape:
    return shape.fields[key] if isinstance(shape, Record) else shape and shape.each


def _known(shape: Shape) -> str:
    return ", ".join(shape.fields) if isinstance(shape, Record) else "names of your choice"


def _nested(key: str) -> str:
    *outer, last = key.split(".")
    return "".join(f"{{{name}: " for name in outer) + f"{{{last}: ...}}" + "}" * len(outer)
