"""Configurations of a space without a study: at random to check it, or every one of them."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from search_spaces.errors import ConstraintError, Problem, SpaceError
from search_spaces.nodes import Suggests
from search_spaces.space import Space
from trainable.errors import LatentuneError
from trainable.trial import TrialConfig

MOST_POINTS = 100_000  # of a grid: each is drawn and checked before the search begins
_MOST_DRAWS = 1_000  # for one sample that keeps the constraints


class Configuration(NamedTuple):
    """One point of a finite space.

    `label` reads the drawn values in order: texts alone, others with the last word of
    their name (`start`, or `every, k=8`). `params` replays it in a `FixedTrial`.
    """

    label: str
    params: Mapping[str, Any]
    config: dict[str, Any]


def check_legal(space: Space, samples: int = 200, seed: int = 0) -> float:
    """The share of random samples that are legal configurations, above 0.

    Args:
        space: the space.
        samples: how many to draw, at least 1.
        seed: of the random draws.

    Raises:
        SpaceError: where no sample is legal, with the most common reason.
    """
    if samples < 1:
        raise ValueError(f"samples={samples} must be at least 1")
    reasons: Counter[str] = Counter()
    for config in sample_configs(space, samples, seed):
        try:
            TrialConfig.from_dict(config)
        except LatentuneError as error:
            reasons[str(error)] += 1
    if reasons.total() < samples:
        return 1 - reasons.total() / samples
    reason, times = reasons.most_common(1)[0]
    wrong = f"none of {samples} samples is a legal trial, {times} of them because of: {reason}"
    remedy = "correct the space so that some configurations are legal"
    raise SpaceError([Problem(path="", wrong=wrong, remedy=remedy)])


def sample_configs(space: Space, samples: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Random configurations that keep the constraints, legal or not.

    Args:
        seed: of the random draws.

    Raises:
        SpaceError: where draw after draw breaks a constraint.
    """
    trial = _RandomTrial(seed)
    for _ in range(samples):
        yield _kept_sample(space, trial)


def _kept_sample(space: Space, trial: Suggests) -> dict[str, Any]:
    broken: ConstraintError | None = None
    for _ in range(_MOST_DRAWS):
        try:
            return space.sample(trial)
        except ConstraintError as error:
            broken = error
    wrong, remedy = f"{_MOST_DRAWS} draws in a row were refused: {broken}", "loosen the constraint"
    raise SpaceError([Problem(path="constraints", wrong=wrong, remedy=remedy)])


def enumerate_configs(space: Space) -> Iterator[Configuration]:
    """Every configuration of a finite space that keeps its constraints, in declared order.

    Raises:
        SpaceError: for an infinite space, at the first step.
    """
    if math.isinf(space.size()):
        wrong = "the space is infinite and cannot be enumerated"
        remedy = "use `choice` in place of every `float`"
        raise SpaceError([Problem(path="", wrong=wrong, remedy=remedy)])
    turns: list[int] | None = []
    while turns is not None:
        trial = _EnumeratedTrial(turns)
        with suppress(ConstraintError):
            config = space.sample(trial)
            yield Configuration(_label(trial.params), trial.params, config)
        turns = trial.next_turns()


def legal_points(space: Space) -> list[Mapping[str, Any]]:
    """The params of every legal configuration of a finite space, in declared order.

    Raises:
        SpaceError: for an infinite space, or one of more than `MOST_POINTS`.
    """
    if MOST_POINTS < space.size() < math.inf:
        wrong = f"the space has {space.size():.3g} configurations, expected at most {MOST_POINTS}"
        remedy = "narrow its ranges, or draw at random instead"
        raise SpaceError([Problem(path="", wrong=wrong, remedy=remedy)])
    return [point.params for point in enumerate_configs(space) if _is_legal(point.config)]


def _is_legal(config: Mapping[str, Any]) -> bool:
    try:
        TrialConfig.from_dict(config)
    except LatentuneError:
        return False
    return True


class _RandomTrial:
    """Suggests at random, like Optuna's random sampler but without a study."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  no secret

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        if log:
            return min(high, max(low, round(self.suggest_float(name, low, high, log=True))))
        return self._random.randrange(low, high + 1, step)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if log:
            drawn = math.exp(self._random.uniform(math.log(low), math.log(high)))
            return min(high, max(low, drawn))
        return self._random.uniform(low, high)


class _EnumeratedTrial:
    """Suggests the value at each given turn, and the first one after the last turn."""

    def __init__(self, turns: Sequence[int]) -> None:
        self.params: dict[str, Any] = {}
        self._given = turns
        self._turns: list[tuple[int, int]] = []  # (turn, how many there are)

    def next_turns(self) -> list[int] | None:
        """The turns of the configuration after this one; None after the last."""
        while self._turns:
            turn, total = self._turns.pop()
            if turn + 1 < total:
                return [*(earlier for earlier, _ in self._turns), turn + 1]
        return None

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        depth = len(self._turns)
        turn = self._given[depth] if depth < len(self._given) else 0
        self._turns.append((turn, len(choices)))
        self.params[name] = choices[turn]
        return choices[turn]

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        chosen: int = self.suggest_categorical(name, range(low, high + 1, step))
        return chosen

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        chosen: float = self.suggest_categorical(name, [low])  # a finite space: low = high
        return chosen


def _label(params: Mapping[str, Any]) -> str:
    words = [
        value if isinstance(value, str) else f"{name.rpartition('.')[2]}={value}"
        for name, value in params.items()
    ]
    return ", ".join(words) or "only"
