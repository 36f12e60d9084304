"""Every error that the method and the engine raise on purpose.

    LatentuneError
    ├── StrategyError (ValueError)      an insertion strategy that means nothing
    ├── TrialError (ValueError)         another field of a trial's configuration
    ├── BaseModelError (ValueError)     a model or tokenizer that cannot carry latents
    ├── ContextError (ValueError)       a position beyond a base model's context
    ├── TaskError (ValueError)          a task that yields no usable rows
    │   └── BadRowsError                ... because of what its files hold, row by row
    ├── ArtifactError (ValueError)      an artifact folder that cannot be trusted
    │   ├── FingerprintError            ... or that belongs to another base model
    │   └── StateError                  a trial's saved state that cannot be gone on from
    ├── AttentionError (ValueError)     a sequence or model whose attention cannot be shown
    ├── NumericError (ArithmeticError)  a trial whose loss or latents are not finite
    ├── DiskFullError (OSError)         a file that found no space
    ├── RowMemoryError (MemoryError)    a row that does not fit into the memory by itself
    └── UnknownTrialError (KeyError)    a trial that this engine does not hold

A message says what is wrong, what was given, what was expected and what to do next.
"""

from __future__ import annotations


class LatentuneError(Exception):
    """Root of all errors that this project raises on purpose."""


class StrategyError(LatentuneError, ValueError):
    """An insertion strategy whose fields contradict each other or the method."""


class TrialError(LatentuneError, ValueError):
    """A trial's init, optimiser or seed that cannot be used."""


class BaseModelError(LatentuneError, ValueError):
    """A base model or tokenizer that latent tokens cannot be trained on."""


class ContextError(LatentuneError, ValueError):
    """Tokens and latents that need a position beyond the base model's context."""


class TaskError(LatentuneError, ValueError):
    """A task whose options are wrong or that yields no usable rows."""


class BadRowsError(TaskError):
    """Data files with rows that cannot be used.

    Args:
        shown: the first of them, each as one line.
        count: how many there are in all.
        remedy: what helps against all of them; "" where each line says it.
    """

    def __init__(self, shown: tuple[str, ...], count: int, remedy: str = "") -> None:
        super().__init__(shown, count, remedy)  # args alone survive pickling

    @property
    def shown(self) -> tuple[str, ...]:
        """The first bad rows, one line each."""
        shown: tuple[str, ...] = self.args[0]
        return shown

    @property
    def count(self) -> int:
        """How many bad rows there are."""
        return int(self.args[1])

    def __str__(self) -> str:
        remedy: str = self.args[2]
        if self.count == 1:
            return f"bad data: {self.shown[0]}" + (f": {remedy}" if remedy else "")
        more = self.count - len(self.shown)
        rest = [f"- … and {more} more"] if more else []
        heading = f"bad data: {self.count} problems" + (f": {remedy}" if remedy else "")
        return "\n".join([heading, *(f"- {line}" for line in self.shown), *rest])


class ArtifactError(LatentuneError, ValueError):
    """An artifact folder that is incomplete, damaged or of an unknown format."""


class FingerprintError(ArtifactError):
    """Latents attached to a base model other than the one they were trained on."""


class StateError(ArtifactError):
    """A trial's saved state that is damaged, or belongs to another configuration."""


class DiskFullError(LatentuneError, OSError):
    """A file that could not be written because the disk, or a quota, is full."""


class AttentionError(LatentuneError, ValueError):
    """A sequence or a model whose attention cannot be shown."""


class NumericError(LatentuneError, ArithmeticError):
    """A trial whose loss, gradient or latents stopped being finite."""


class RowMemoryError(LatentuneError, MemoryError):
    """A row of a trial that does not fit into the memory even by itself."""


class UnknownTrialError(LatentuneError, KeyError):
    """A call for a trial that never joined this engine, or left it."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the message's repr
