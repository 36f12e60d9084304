"""A trial's configuration: the strategy, how its latents start, and how they are trained.

Everything here is plain, frozen data without torch, so that the driver and the thin
trials of a search can hold it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from trainable.errors import TrialError
from trainable.strategy import InsertionStrategy

InitKind = Literal["normal", "vocab", "text"]
Schedule = Literal["constant", "linear", "cosine"]
MOST_BATCH_ROWS = 65_536  # of one optimiser step, all of them encoded at once


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Where the latents start.

    Args:
        kind: `normal`: the mean embedding plus normal noise at the embeddings' own spread;
            `vocab`: rows of random vocabulary tokens; `text`: the embeddings of `text`,
            repeated or cut to L rows.
        scale: factor on the noise of `normal`, above 0.
        text: for `text` alone.
    """

    kind: InitKind = "normal"
    scale: float = 1.0
    text: str | None = None

    def __post_init__(self) -> None:
        _one_of("init.kind", self.kind, get_args(InitKind))
        _in_range("init.scale", self.scale, above=0.0)
        if self.text is not None and not isinstance(self.text, str):
            raise TrialError(f"init.text={self.text!r} must be a text")
        if (self.kind == "text") != (self.text is not None):
            raise TrialError(
                f"init.text={self.text!r} contradicts init.kind={self.kind!r}: "
                "`text` needs a text, the other kinds have none"
            )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW on one trial's latents.

    Args:
        lr: peak learning rate, above 0.
        weight_decay: decoupled, per step times lr, at least 0.
        schedule: from the peak, over the trial's budget: constant, or down to 0.
        warmup_steps: optimiser steps of linear warm-up.
        clip_norm: the trial's own gradient norm is cut to this; None switches it off.
        batch_rows: examples per optimiser step.
    """

    lr: float = 0.02
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    warmup_steps: int = 20
    clip_norm: float | None = 1.0
    batch_rows: int = 8

    def __post_init__(self) -> None:
        _in_range("optim.lr", self.lr, above=0.0)
        _in_range("optim.weight_decay", self.weight_decay, low=0.0)
        _one_of("optim.schedule", self.schedule, get_args(Schedule))
        _whole("optim.warmup_steps", self.warmup_steps, low=0)
        if self.clip_norm is not None:
            _in_range("optim.clip_norm", self.clip_norm, above=0.0)
        _whole("optim.batch_rows", self.batch_rows, low=1, high=MOST_BATCH_ROWS)


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One configuration. Its seed decides the init alone; examples follow the search's seed."""

    strategy: InsertionStrategy = field(default_factory=InsertionStrategy)
    init: InitConfig = field(default_factory=InitConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        _whole("seed", self.seed, low=0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        return {
            "strategy": self.strategy.to_dict(),
            "init": asdict(self.init),
            "optim": asdict(self.optim),
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialConfig:
        """Read plain data.

        Raises:
            StrategyError, TrialError: naming the dotted path of the first wrong field.
        """
        _refuse_unknown(cls, data, "")
        _refuse_unknown(InitConfig, data.get("init", {}), "init.")
        _refuse_unknown(OptimConfig, data.get("optim", {}), "optim.")
        return cls(
            strategy=InsertionStrategy.from_dict(data.get("strategy", {})),
            init=InitConfig(**data.get("init", {})),
            optim=OptimConfig(**data.get("optim", {})),
            seed=data.get("seed", 0),
        )


def _refuse_unknown(cls: Any, data: Any, prefix: str) -> None:
    if not isinstance(data, Mapping):
        raise TrialError(f"{prefix.rstrip('.') or 'trial'} must be a mapping, got {data!r}")
    known = [f.name for f in fields(cls)]
    for key in data:
        if key not in known:
            raise TrialError(f"{prefix}{key} is unknown; known: {', '.join(known)}")


def _one_of(path: str, value: object, options: tuple[str, ...]) -> None:
    if value not in options:
        raise TrialError(f"{path}={value!r} is unknown; one of {', '.join(options)}")


def _whole(path: str, value: object, *, low: int, high: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise TrialError(f"{path}={value!r} must be a whole number of at least {low}")
    if high is not None and value > high:
        raise TrialError(f"{path}={value} must be at most {high}")


def _in_range(
    path: str, value: object, *, low: float = -math.inf, above: float = -math.inf
) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < low or value <= above:  # type: ignore[arg-type, operator]
        bound = f"above {above}" if above > -math.inf else f"at least {low}"
        raise TrialError(f"{path}={value!r} must be a number {bound}")
