"""Strategies: what is legal, what they are called, and what survives plain data."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trainable.errors import StrategyError
from trainable.layout import whole_layout
from trainable.layout_rules import LayoutRules
from trainable.strategy import InsertionStrategy
from trainable.trigger import Readout, Side, Trigger, TriggerKind


def strategy(specialization: str = "shared", **triggers: dict[str, Any]) -> InsertionStrategy:
    return InsertionStrategy.from_dict({"triggers": triggers, "specialization": specialization})


@pytest.mark.parametrize(
    ("fields", "readout"),
    [
        ({"kind": "start"}, Readout.LATENT),
        ({"kind": "end"}, Readout.LATENT),
        ({"kind": "delimiter"}, Readout.VERBAL),
        ({"kind": "every", "k": 3}, Readout.VERBAL),
        ({"kind": "start", "readout": "verbal"}, Readout.VERBAL),
        ({"kind": "every", "k": 3, "readout": "latent"}, Readout.LATENT),
    ],
)
def test_default_and_given_readouts(fields: dict[str, Any], readout: Readout) -> None:
    assert Trigger(**fields).readout is readout


def test_defaults() -> None:
    delimiter = Trigger(kind=TriggerKind.DELIMITER)
    assert (delimiter.m, delimiter.pattern, delimiter.side) == (1, ",", Side.BEFORE)
    assert Trigger(kind=TriggerKind.START).k is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "sometimes"}, ["kind", "'sometimes'", "start, end, delimiter, every, random"]),
        ({"kind": "start", "m": 0}, ["m=0", "at least 1"]),
        ({"kind": "start", "m": True}, ["m=True"]),
        ({"kind": "start", "m": 2.0}, ["m=2.0"]),
        ({"kind": "every"}, ["k is missing"]),
        ({"kind": "every", "k": 0}, ["k=0"]),
        ({"kind": "start", "k": 3}, ["k=3", "kind: start", "`every`"]),
        ({"kind": "every", "k": 3, "pattern": ","}, ["pattern=','", "`delimiter`"]),
        ({"kind": "end", "side": "before"}, ["side", "`delimiter`"]),
        ({"kind": "delimiter", "pattern": "("}, ["pattern='('", "no regular expression"]),
        ({"kind": "delimiter", "pattern": ""}, ["pattern=''"]),
        ({"kind": "delimiter", "pattern": 5}, ["pattern=5"]),
        ({"kind": "delimiter", "side": "above"}, ["side", "'above'"]),
        ({"kind": "delimiter", "readout": "latent"}, ["readout: latent", "side: before"]),
        ({"kind": "random"}, ["rate is missing"]),
        ({"kind": "random", "rate": 0}, ["rate=0", "above 0"]),
        ({"kind": "random", "rate": 1.5}, ["rate=1.5", "at most 1"]),
        ({"kind": "random", "rate": "often"}, ["rate='often'"]),
        ({"kind": "random", "rate": 0.5, "seed": -1}, ["seed=-1"]),
        ({"kind": "random", "rate": 0.5, "seed": 2**64}, ["seed=18446744073709551616", "at most"]),
        ({"kind": "start", "m": 10**9}, ["m=1000000000", "at most 4096"]),
        ({"kind": "every", "k": 2**63}, ["k=9223372036854775808", "at most"]),
        ({"kind": "every", "k": 2, "rate": 0.5}, ["rate=0.5", "`random`"]),
        ({"kind": "start", "region": "query"}, ["region='query'", "`delimiter`, `every`"]),
        ({"kind": "every", "k": 2, "region": "answer"}, ["region='answer'", "query, response"]),
        ({"kind": "start", "readout": "both"}, ["readout", "'both'"]),
        ({"kind": "start", "colour": "red"}, ["triggers.t.colour", "known"]),
        ({"m": 2}, ["triggers.t.kind is missing"]),
    ],
)
def test_an_illegal_trigger_names_its_fields(fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(StrategyError) as caught:
        strategy(t=fields)
    message = str(caught.value)
    assert message.startswith("strategy.triggers.t.")
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"colour": "red"}, ["strategy.colour", "known"]),
        ({"specialization": "by_colour"}, ["strategy.specialization", "shared, by_trigger"]),
        ({"position_rule": "none"}, ["strategy.position_rule", "following, preceding, own"]),
        ({"specialization": "cycle"}, ["strategy.groups is missing", "groups: 2"]),
        (
            {"specialization": "cycle", "groups": 10**9},
            ["strategy.groups=1000000000", "at most 4096"],
        ),
        ({"specialization": "cycle", "groups": 1}, ["strategy.groups=1", "at least 2"]),
        ({"groups": 2}, ["strategy.groups=2", "specialization: shared", "use cycle"]),
        ({"triggers": ["start"]}, ["strategy.triggers", "mapping"]),
        ({"triggers": {"t": "start"}}, ["strategy.triggers.t", "mapping"]),
        ({"triggers": {"t": {1: 2, "b": 3, "kind": "start"}}}, ["strategy.triggers.t.", "unknown"]),
        ([], ["strategy must be a mapping"]),
    ],
)
def test_an_illegal_strategy_names_its_fields(data: Any, words: list[str]) -> None:
    with pytest.raises(StrategyError) as caught:
        InsertionStrategy.from_dict(data)
    for word in words:
        assert word in str(caught.value)


def test_shared_needs_one_m() -> None:
    triggers: dict[str, Any] = {"a": {"kind": "start", "m": 4}, "b": {"kind": "end", "m": 2}}
    with pytest.raises(StrategyError, match=r"triggers\.a\.m=4, triggers\.b\.m=2.*by_trigger"):
        strategy(**triggers)
    assert strategy("by_trigger", **triggers).group_sizes == (4, 2)


def test_groups() -> None:
    triggers: dict[str, Any] = {
        "a": {"kind": "start", "m": 2},
        "b": {"kind": "every", "k": 8, "m": 2},
    }
    shared = strategy(**triggers)
    assert (shared.groups_of("a"), shared.groups_of("b")) == ((0, 0), (0, 0))
    assert shared.group_sizes == (2,)
    own = strategy("by_trigger", **triggers)
    assert (own.groups_of("a"), own.groups_of("b")) == ((0, 0), (1, 1))
    assert own.group_sizes == (2, 2)
    assert (shared.latent_count, own.latent_count) == (2, 4)
    assert (strategy().latent_count, strategy().group_sizes) == (0, ())


def test_by_region_has_a_group_for_query_and_response() -> None:
    comma = {"kind": "delimiter", "m": 3, "region": "response"}
    given = strategy("by_region", a={"kind": "start", "m": 2}, b=comma)
    assert given.group_sizes == (2, 3)
    assert given.groups_of("a") == given.groups_of("b") == (0, 1)


@pytest.mark.parametrize(
    ("triggers", "words"),
    [
        ({"a": {"kind": "start"}, "b": {"kind": "end"}}, "no trigger reaches the response"),
        ({"b": {"kind": "every", "k": 2, "region": "response"}}, "reaches the query"),
        (
            {"a": {"kind": "start", "m": 2}, "b": {"kind": "every", "k": 2}},
            r"the same m in the query, got triggers\.a\.m=2, triggers\.b\.m=1",
        ),
        (
            {
                "a": {"kind": "delimiter", "region": "response"},
                "b": {"kind": "every", "k": 2, "m": 2},
            },
            "the same m in the response",
        ),
    ],
)
def test_by_region_needs_one_m_on_each_side(triggers: dict[str, Any], words: str) -> None:
    with pytest.raises(StrategyError, match=words):
        strategy("by_region", **triggers)


def test_cycle_has_as_many_groups_as_asked() -> None:
    every = {"kind": "every", "k": 2, "m": 3}
    given = InsertionStrategy.from_dict(
        {"triggers": {"e": every}, "specialization": "cycle", "groups": 4}
    )
    assert given.group_sizes == (3, 3, 3, 3)
    with pytest.raises(StrategyError, match="cycle needs the same m everywhere"):
        InsertionStrategy.from_dict(
            {
                "triggers": {"e": every, "s": {"kind": "start"}},
                "specialization": "cycle",
                "groups": 2,
            }
        )


@pytest.mark.parametrize(
    ("specialization", "triggers", "name"),
    [
        ("shared", {}, "none"),
        ("by_trigger", {}, "none"),
        ("shared", {"s": {"kind": "start", "m": 4}}, "start4"),
        ("by_trigger", {"s": {"kind": "start", "m": 4}}, "start4"),
        ("shared", {"c": {"kind": "delimiter"}}, "comma1"),
        ("shared", {"c": {"kind": "delimiter", "pattern": ";", "m": 2}}, "delimiter(;)2"),
        ("shared", {"c": {"kind": "delimiter", "side": "after"}}, "aftercomma1"),
        ("shared", {"c": {"kind": "delimiter", "pattern": "\n"}}, r"delimiter(\n)1"),
        ("shared", {"c": {"kind": "delimiter", "pattern": "=", "side": "after"}}, "after(=)1"),
        ("shared", {"r": {"kind": "random", "rate": 0.125, "m": 2}}, "random0.125x2"),
        ("shared", {"r": {"kind": "random", "rate": 1, "seed": 3}}, "random1#3x1"),
        ("shared", {"e": {"kind": "every", "k": 8, "region": "query"}}, "every8x1@query"),
        (
            "by_region",
            {"c": {"kind": "delimiter", "side": "after", "readout": "latent"}},
            "aftercomma1!latent~by_region",
        ),
        ("shared", {"s": {"kind": "start", "readout": "verbal"}}, "start1!verbal"),
        (
            "by_trigger",
            {"s": {"kind": "start", "m": 4}, "e": {"kind": "every", "k": 8, "m": 2}},
            "start4+every8x2~by_trigger",
        ),
        (
            "shared",
            {"e": {"kind": "every", "k": 8, "m": 2}, "s": {"kind": "end", "m": 2}},
            "every8x2+end2",
        ),
    ],
)
def test_short_name(specialization: str, triggers: dict[str, Any], name: str) -> None:
    assert strategy(specialization, **triggers).short_name == name


def test_short_name_tells_cycle_and_position_rule() -> None:
    data: dict[str, Any] = {
        "triggers": {"e": {"kind": "every", "k": 8}},
        "specialization": "cycle",
        "groups": 3,
        "position_rule": "own",
    }
    assert InsertionStrategy.from_dict(data).short_name == "every8x1~cycle3~own"


def test_plain_data_is_json_and_comes_back_in_order() -> None:
    given = strategy(
        "by_trigger",
        z={"kind": "delimiter", "pattern": "[,;]", "m": 2},
        a={"kind": "every", "k": 5, "readout": "latent"},
        m={"kind": "start", "m": 3},
    )
    again = InsertionStrategy.from_dict(json.loads(json.dumps(given.to_dict())))
    assert again == given
    assert list(again.triggers) == ["z", "a", "m"]


def test_a_strategy_cannot_be_changed() -> None:
    given = strategy(a={"kind": "start"})
    with pytest.raises(TypeError):
        given.triggers["b"] = Trigger(kind=TriggerKind.END)  # type: ignore[index]
    with pytest.raises(AttributeError):
        given.specialization = "by_trigger"  # type: ignore[misc, assignment]


def test_the_largest_of_each_count_is_legal_and_can_be_laid_out() -> None:
    seed = {"kind": "random", "rate": 0.5, "seed": 2**64 - 1, "m": 4096}
    period = {"kind": "every", "k": 2**31 - 1, "m": 4096}
    rules = LayoutRules.build(strategy(r=seed, e=period), {}, bos_id=1)
    layout = whole_layout(rules, [1, 5, 6, 7, 8, 9], 3)
    assert (layout.latent_T >= 0).sum() % 4096 == 0
