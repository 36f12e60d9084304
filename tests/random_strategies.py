"""Random insertion strategies over every axis of design section 3: by seed, or for hypothesis.

A new trigger kind or axis is one more entry here.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

from trainable.errors import StrategyError
from trainable.strategy import InsertionStrategy, PositionRule, Specialization
from trainable.trigger import Readout, Region, Side, TriggerKind

# Random models seldom write a comma; these match a good part of the characters that they write.
PATTERNS = ("[0-9a-m,]", "[aeiou=;]", "[A-Z]")


def random_strategy(seed: int) -> InsertionStrategy:
    """A legal strategy with two to four triggers, one of them `every`: it always has sites."""
    rng = Random(seed)  # noqa: S311 - no secrets here
    while True:
        strategy = draw_strategy(rng, PATTERNS, rng.randint(2, 4))
        if any(trigger.kind is TriggerKind.EVERY for trigger in strategy.triggers.values()):
            return strategy


@st.composite
def insertion_strategies(draw: st.DrawFn, patterns: Sequence[str]) -> InsertionStrategy:
    """A legal strategy of up to four triggers."""
    rng = draw(st.randoms(use_true_random=False))
    return draw_strategy(rng, patterns, draw(st.integers(0, 4)))


def draw_strategy(rng: Random, patterns: Sequence[str], triggers: int) -> InsertionStrategy:
    """A legal strategy of so many triggers; what is illegal is drawn again."""
    while True:
        specialization = rng.choice(list(Specialization))
        shared_m = None if specialization is Specialization.BY_TRIGGER else rng.randint(1, 3)
        fields: dict[str, Any] = {
            "triggers": {
                f"t{place}": _trigger(rng, patterns, shared_m or rng.randint(1, 3))
                for place in range(triggers)
            },
            "specialization": specialization,
            "position_rule": rng.choice(list(PositionRule)),
        }
        if specialization is Specialization.CYCLE:
            fields["groups"] = rng.randint(2, 4)
        try:
            return InsertionStrategy.from_dict(fields)
        except StrategyError:
            continue


def _trigger(rng: Random, patterns: Sequence[str], m: int) -> dict[str, Any]:
    kind = rng.choice(list(TriggerKind))
    fields: dict[str, Any] = {"kind": kind, "m": m}
    if rng.random() < 0.7:  # else its default
        fields["readout"] = rng.choice(list(Readout))
    if kind not in (TriggerKind.START, TriggerKind.END):
        fields["region"] = rng.choice(list(Region))
    if kind is TriggerKind.EVERY:
        fields["k"] = rng.randint(1, 5)
    if kind is TriggerKind.RANDOM:
        fields |= {"rate": rng.uniform(0.05, 1.0), "seed": rng.randint(0, 3)}
    if kind is TriggerKind.DELIMITER:
        fields |= {"pattern": rng.choice(patterns), "side": rng.choice(list(Side))}
    return fields
