"""Spaces ready to search. A preset is a function that returns a full space.

    quick        where to put latents, how many, and how to train them
    full         every axis of the method: also sides, regions, readouts, groups, positions
    baselines    no latents, and prompt tuning at the start and at the end

Add one: write a function, enter it in `PRESETS`, and its samples are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from search_spaces.space import Space

_ALONE_M = [1, 2, 4, 8]
_PAIR_M = [1, 2, 4]
_FULL_M = [1, 2, 4, 8, 16]
_COMMA = {"kind": "delimiter", "pattern": ","}
_EVERY = {"kind": "every", "k": {"int": {"low": 4, "high": 12}}}
_REGION = {"region": {"choice": ["query", "response", "both"]}}
_ANY_COMMA = {
    **_COMMA,
    "name": "strategy.comma.place",
    "one_of": {
        "before": {"side": "before"},
        "after": {"side": "after"},
        "after, read out": {"side": "after", "readout": "latent"},
    },
}
_ANY_EVERY = {
    "kind": "every",
    "k": {"int": {"low": 4, "high": 32, "log": True}},
    "readout": {"choice": ["verbal", "latent"]},
}


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


def full() -> Space:
    """Every axis of the method but `random`, which is a control; 1 to 16 latents per site."""
    return Space(
        {
            "strategy": {
                "position_rule": {"choice": ["following", "preceding", "own"]},
                "name": "strategy.position",
                "one_of": {
                    "start": _alone("start", {"kind": "start"}, _FULL_M),
                    "end": _alone("end", {"kind": "end"}, _FULL_M),
                    "comma": _spread("comma", _ANY_COMMA),
                    "every": _spread("every", _ANY_EVERY),
                    "start+comma": _start_and("comma", _ANY_COMMA | _REGION, _FULL_M),
                    "start+every": _start_and("every", _ANY_EVERY | _REGION, _FULL_M),
                    "end+comma": _end_and_comma(),
                },
            },
            "init": {"kind": {"choice": ["normal", "vocab"]}},
            "optim": {"lr": {"float": {"low": 0.003, "high": 0.1, "log": True}}, "batch_rows": 8},
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
    {"quick": quick, "full": full, "baselines": baselines}
)


def _alone(name: str, trigger: Mapping[str, Any], m: Sequence[int] = _ALONE_M) -> dict[str, Any]:
    return {"triggers": {name: {**trigger, "m": {"choice": m}}}}


def _spread(name: str, trigger: Mapping[str, Any]) -> dict[str, Any]:
    """One trigger with many sites: one group, one for each region, or several in turn."""
    return {
        **_alone(name, trigger, _FULL_M),
        "name": "strategy.roles",
        "one_of": {
            "shared": {"specialization": "shared", "triggers": {name: _REGION}},
            "by_region": {"specialization": "by_region"},
            "cycle": {
                "specialization": "cycle",
                "groups": {"int": {"low": 2, "high": 4}},
                "triggers": {name: _REGION},
            },
        },
    }


def _start_and(name: str, trigger: Mapping[str, Any], m: Sequence[int] = _PAIR_M) -> dict[str, Any]:
    """A pair with `start`: one group for both, of one size, or a group each."""
    m_of_start = "strategy.pair.start.m"  # apart from strategy.triggers.start.m: fewer choices
    m_of_other = {"choice": m, "name": f"strategy.pair.{name}.m"}
    return {
        "triggers": {
            "start": {"kind": "start", "m": {"choice": m, "name": m_of_start}},
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


def _end_and_comma() -> dict[str, Any]:
    """Pause tokens at the query's end, and a group at each comma of the response."""
    response = {**_ANY_COMMA, "region": "response"}
    return {
        "triggers": {
            "end": {"kind": "end", "m": {"choice": _FULL_M, "name": "strategy.pair.end.m"}},
            "comma": {**response, "m": {"choice": _FULL_M, "name": "strategy.pair.comma.m"}},
        },
        "specialization": "by_trigger",
    }
