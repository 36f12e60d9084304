"""What is wrong with data files, gathered row by row and told at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainable.errors import BadRowsError

SHOWN = 20
SHOWN_CHARACTERS = 60


@dataclass
class RowProblems:
    """A list that keeps the first problems and counts the others: a file may be bad throughout."""

    shown: list[str] = field(default_factory=list)
    count: int = 0

    @property
    def is_full(self) -> bool:
        """Whether further problems are counted alone."""
        return len(self.shown) >= SHOWN

    def add(self, file: str, row: int | None, wrong: str) -> None:
        """Note one problem.

        Args:
            file: as the user named it.
            row: its number, from 1; None for the file as a whole.
            wrong: what is wrong, and what to do where that is not plain.
        """
        self.count += 1
        if not self.is_full:
            self.shown.append(f"{file}: {wrong}" if row is None else f"{file} row {row}: {wrong}")

    def raise_any(self, remedy: str = "") -> None:
        """Raise BadRowsError if there is any problem.

        Args:
            remedy: what helps against all of them.
        """
        if self.count:
            raise BadRowsError(tuple(self.shown), self.count, remedy)


def shown(value: object) -> str:
    """A value as it stands in a message."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
