"""Spaces ready to search. A preset is a function that returns a full space.

    quick        where to put latents, how many, and how to train them
    baselines    no latents, and prompt tuning at the start and at the end

Add one: write a function, enter it in `PRESETS`, and its samples are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from search_spaces.space import Space

_ALONE_M = [1, 2, 4, 8]
_PAIR_M = [1, 2, 4]
_COMMA = {"kind": "delimiter", "pattern": ","}
_EVERY = {"kind": "every", "k": {"int": {"low": 4, "high": 12}}}


def quick() -> Space:
    """Six positions, alone and in pairs; sizes, sharing, learning rate and init."""
    return Space(
        {
            "strategy": {
                "name": "strategy.position",
                "one_of": {
                    "start": _alone("start", {"kind": "start"}),
                    "end": _alone("end", {"kind": "end"}),
                    "comma": _alone("comma", _COMMA),
                    "every": _alone("every", _EVERY),
                    "start+comma": _start_and("comma", _COMMA),
                    "start+every": _start_and("every", _EVERY),
                },
            },
            "init": {"kind": {"choice": ["normal", "vocab"]}},
            "optim": {"lr": {"float": {"low": 0.005, "high": 0.05, "log": True}}, "batch_rows": 8},
            "seed": 0,
        }
    )


def baselines() -> Space:
    """What every search is compared with: the frozen model, and four latents at either end."""
    return Space(
        {
            "strategy": {
                "name": "strategy.position",
                "one_of": {
                    "none": {"triggers": {}},
                    "start": {"triggers": {"start": {"kind": "start", "m": 4}}},
                    "end": {"triggers": {"end": {"kind": "end", "m": 4}}},
                },
            }
        }
    )


PRESETS: Mapping[str, Callable[[], Space]] = MappingProxyType(
    {"quick": quick, "baselines": baselines}
)


def _alone(name: str, trigger: Mapping[str, Any]) -> dict[str, Any]:
    return {"triggers": {name: {**trigger, "m": {"choice": _ALONE_M}}}}


def _start_and(name: str, trigger: Mapping[str, Any]) -> dict[str, Any]:
    """A pair with `start`: one group for both, of one size, or a group each."""
    m_of_start = "strategy.pair.start.m"  # apart from strategy.triggers.start.m: fewer choices
    m_of_other = {"choice": _PAIR_M, "name": f"strategy.pair.{name}.m"}
    return {
        "triggers": {
            "start": {"kind": "start", "m": {"choice": _PAIR_M, "name": m_of_start}},
            name: trigger,
        },
        "name": "strategy.specialization",
        "one_of": {
            "shared": {
                "specialization": "shared",
                "triggers": {name: {"m": {"same_as": m_of_start}}},
            },
            "by_trigger": {
                "specialization": "by_trigger",
                "triggers": {name: {"m": m_of_other}},
            },
        },
    }
