"""What can be wrong with a search space, told all at once.

    LatentuneError                  (trainable.errors)
    ├── SpaceError (ValueError)     a space that cannot be searched, with all its problems
    └── ConstraintError (ValueError) a sample whose axes break a constraint of its space

A `Problem` is one thing to correct: where, what was given, what is wrong, what to do.
The configuration of a whole search reports its problems in the same form.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from trainable.errors import LatentuneError

NOTHING: Final = object()  # where no value was given, not even null


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing to correct in what a user wrote.

    Args:
        path: dotted path of the field, as in Optuna and MLflow; "" for the whole.
        wrong: what is wrong, or what was expected.
        remedy: what to do next.
        got: the value given, printed; None where none was given.
        where: a hint beside the path, such as a line or the branch of a `one_of`.
        location: the keys that lead to it in the document, `one_of` labels included.
    """

    path: str
    wrong: str
    remedy: str
    got: str | None = None
    where: str = ""
    location: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        where = f"({self.where})" if self.where else ""
        place = " ".join(part for part in (self.path, where) if part)
        got = "" if self.got is None else f"got {self.got}, "
        return f"{place}{': ' if place else ''}{got}{self.wrong}; {self.remedy}"


class SpaceError(LatentuneError, ValueError):
    """A search space that cannot be searched.

    Args:
        problems: everything that is wrong with it, at least one.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(tuple(problems))  # args alone survive pickling

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong, in the order of the space."""
        problems: tuple[Problem, ...] = self.args[0]
        return problems

    def __str__(self) -> str:
        return listed("search space", self.problems)


class ConstraintError(LatentuneError, ValueError):
    """A sample that is to be drawn again: its axes break one of the space's constraints."""


def listed(subject: str, problems: Sequence[Problem]) -> str:
    """One line for one problem; a heading and a line each for several."""
    if len(problems) == 1:
        return f"{subject}: {problems[0]}"
    return "\n".join([f"{subject}: {len(problems)} problems", *(f"- {p}" for p in problems)])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The remedy for an unknown word: the closest known one, else all of them."""
    options = list(dict.fromkeys(known))
    close = difflib.get_close_matches(word.lower(), options, n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known: {', '.join(options)}" if options else "remove it"


def shown(value: object) -> str | None:
    """A value as it stands in a message, at most about 80 characters; None for NOTHING."""
    if value is NOTHING:
        return None
    printer = reprlib.Repr()
    printer.maxstring = printer.maxother = 80
    return printer.repr(value)
