"""Random insertion strategies over every axis of design section 3, for hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from trainable.errors import StrategyError
from trainable.strategy import InsertionStrategy, PositionRule, Specialization
from trainable.trigger import Readout, Region, Side, Trigger, TriggerKind


@st.composite
def triggers(draw: st.DrawFn, patterns: Sequence[str], m: int | None = None) -> Trigger:
    """One legal trigger; its m is drawn where none is given."""
    kind = draw(st.sampled_from(TriggerKind))
    fields: dict[str, Any] = {"kind": kind, "m": m or draw(st.integers(1, 3))}
    readouts: list[Readout | None] = [None, Readout.VERBAL, Readout.LATENT]
    if kind not in (TriggerKind.START, TriggerKind.END):
        fields["region"] = draw(st.sampled_from(Region))
    if kind is TriggerKind.EVERY:
        fields["k"] = draw(st.integers(1, 5))
    if kind is TriggerKind.RANDOM:
        fields |= {"rate": draw(st.floats(0.05, 1.0)), "seed": draw(st.integers(0, 3))}
    if kind is TriggerKind.DELIMITER:
        fields |= {"pattern": draw(st.sampled_from(patterns)), "side": draw(st.sampled_from(Side))}
        if fields["side"] is Side.BEFORE:
            readouts.remove(Readout.LATENT)
    return Trigger(**fields, readout=draw(st.sampled_from(readouts)))


@st.composite
def insertion_strategies(
    draw: st.DrawFn, patterns: Sequence[str], most_triggers: int = 4
) -> InsertionStrategy:
    """A legal strategy of up to `most_triggers` triggers."""
    specialization = draw(st.sampled_from(Specialization))
    by_trigger = specialization is Specialization.BY_TRIGGER
    m = None if by_trigger else draw(st.integers(1, 3))
    drawn = draw(st.lists(triggers(patterns, m), max_size=most_triggers))
    fields: dict[str, Any] = {
        "triggers": {f"t{place}": trigger for place, trigger in enumerate(drawn)},
        "groups": draw(st.integers(2, 4)) if specialization is Specialization.CYCLE else None,
        "position_rule": draw(st.sampled_from(PositionRule)),
    }
    try:
        return InsertionStrategy(**fields, specialization=specialization)
    except StrategyError:  # by_region without a site in one of the two
        assert specialization is Specialization.BY_REGION
        return InsertionStrategy(**fields, specialization=Specialization.SHARED)
