"""Random insertion strategies for tests. A new trigger kind or axis is one more entry here."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from trainable.errors import StrategyError
from trainable.strategy import InsertionStrategy

# Random models seldom write a comma; these match a good part of the characters that they write.
PATTERNS = ("[0-9a-m,]", "[aeiou=;]", "[A-Z]")

MAKE_TRIGGER: dict[str, Callable[[Random], dict[str, Any]]] = {
    "start": lambda rng: {"readout": rng.choice(["verbal", "latent"])},
    "end": lambda rng: {"readout": rng.choice(["verbal", "latent"])},
    "every": lambda rng: {
        "k": rng.randint(1, 5),
        "readout": rng.choice(["verbal", "latent"]),
    },
    "delimiter": lambda rng: {"pattern": rng.choice(PATTERNS)},
}
# The strategy's own fields besides its triggers.
AXES: dict[str, tuple[str, ...]] = {
    "specialization": ("by_trigger", "shared"),
    "position_rule": ("following",),
}


def random_strategy(seed: int) -> InsertionStrategy:
    """A legal strategy with one to four triggers."""
    rng = Random(seed)  # noqa: S311 - no secrets here
    while True:
        try:
            return InsertionStrategy.from_dict(_draw(rng))
        except StrategyError:  # an illegal combination: draw again
            continue


def _draw(rng: Random) -> dict[str, Any]:
    kinds = rng.sample(list(MAKE_TRIGGER), k=rng.randint(1, 3)) + rng.choices(["every"], k=1)
    triggers = {
        f"t{place}": {"kind": kind, "m": rng.randint(1, 3)} | MAKE_TRIGGER[kind](rng)
        for place, kind in enumerate(kinds)
    }
    return {"triggers": triggers} | {name: rng.choice(values) for name, values in AXES.items()}
