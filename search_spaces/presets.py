"""Spaces ready to search. A preset is a function that returns a full space.

    quick        where to put latents, how many, and how to train them
    paper        the paper's named configurations, three seeds each
    positions    where alone: one trigger, all else fixed
    roles        who stands where: groups G and function specialization
    full         every axis of the method and of the optimiser
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
_ROLES_M = {"choice": [1, 2, 4], "name": "strategy.m"}
_ROLES_G = {"int": {"low": 2, "high": 8}}
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
    """Every axis of the method but `random`, which is a control, and of init and optimiser."""
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
            "optim": {
                "lr": {"float": {"low": 0.003, "high": 0.1, "log": True}},
                "weight_decay": {"choice": [0.0, 0.01, 0.1]},
                "schedule": {"choice": ["constant", "linear", "cosine"]},
                "warmup_steps": {"choice": [0, 20, 60]},
                "clip_norm": {"choice": [0.3, 1.0, 3.0]},
                "batch_rows": {"choice": [4, 8, 16]},
            },
            "seed": 0,
        }
    )


def paper() -> Space:
    """The paper's named configurations and its baselines of two latents; three seeds each."""
    comma1, start1 = {**_COMMA, "m": 1}, {"kind": "start", "m": 1}
    return Space(
        {
            "strategy": {
                "name": "strategy.named",
                "one_of": {
                    "Comma_1": {"triggers": {"comma": comma1}},
                    "Comma_2": {"triggers": {"comma": {**_COMMA, "m": 2}}},
                    "8_2": {"triggers": {"every": {"kind": "every", "k": 8, "m": 2}}},
                    "Comma_1 w/ FS": {
                        "triggers": {"start": start1, "comma": comma1},
                        "specialization": "by_trigger",
                    },
                    "Start_2": {"triggers": {"start": {"kind": "start", "m": 2}}},
                    "End_2": {"triggers": {"end": {"kind": "end", "m": 2}}},
                },
            },
            "seed": {"choice": [0, 1, 2]},
        }
    )


def positions() -> Space:
    """Where alone: one trigger, its side, region, period and readout; two latents per site."""
    every = {**_ANY_EVERY, "k": {"choice": [4, 8, 16, 32]}}
    return Space(
        {
            "strategy": {
                "name": "strategy.position",
                "one_of": {
                    "start": {"triggers": {"start": {"kind": "start", "m": 2}}},
                    "end": {"triggers": {"end": {"kind": "end", "m": 2}}},
                    "comma": {"triggers": {"comma": {**_ANY_COMMA, **_REGION, "m": 2}}},
                    "every": {"triggers": {"every": {**every, **_REGION, "m": 2}}},
                },
            }
        }
    )


def roles() -> Space:
    """Who stands where: G and function specialization, at commas or every eight tokens."""
    every8 = {"kind": "every", "k": 8}
    return Space(
        {
            "strategy": {
                "name": "strategy.position",
                "one_of": {
                    "comma": _roles_alone("comma", _COMMA),
                    "every": _roles_alone("every", every8),
                    "start+comma": _roles_of_pair("comma", _COMMA),
                    "start+every": _roles_of_pair("every", every8),
                },
            }
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
    {
        "quick": quick,
        "paper": paper,
        "positions": positions,
        "roles": roles,
        "full": full,
        "baselines": baselines,
    }
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


def _roles_alone(name: str, trigger: Mapping[str, Any]) -> dict[str, Any]:
    """One trigger with one group, one for each region, or G in turn."""
    return {
        "triggers": {name: {**trigger, "m": _ROLES_M}},
        "name": "strategy.roles",
        "one_of": {
            "shared": {"specialization": "shared"},
            "by_region": {"specialization": "by_region"},
            "cycle": {"specialization": "cycle", "groups": _ROLES_G},
        },
    }


def _roles_of_pair(name: str, trigger: Mapping[str, Any]) -> dict[str, Any]:
    """A pair with `start`, of one size: also a group for each trigger."""
    return {
        "triggers": {
            "start": {"kind": "start", "m": _ROLES_M},
            name: {**trigger, "m": {"same_as": "strategy.m"}},
        },
        "name": "strategy.pair.roles",
        "one_of": {
            "shared": {"specialization": "shared"},
            "by_trigger": {"specialization": "by_trigger"},
            "by_region": {"specialization": "by_region"},
            "cycle": {"specialization": "cycle", "groups": _ROLES_G},
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
