"""Why trials wait, in one line: what there is, told to whoever asks `latentune status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from orchestrator.engines.placement import Decision, EngineView, Node, Wish, places_of
from orchestrator.record import Record

WaitKind = Literal[
    "no-node",
    "no-gpu",
    "node-starting",
    "queued",
    "busy",
    "refused",
    "engine-starting",
    "full",
    "budget",
]


class WaitingRecord(Record):
    """Why trials that could run do not.

    Args:
        kind: for programs.
        detail: for people.
    """

    kind: WaitKind
    detail: str


def why_waiting(
    nodes: Sequence[Node],
    engines: Mapping[str, EngineView],
    wish: Wish,
    decision: Decision,
    *,
    autoscaler: str | None = None,
    refused: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
) -> WaitingRecord | None:
    """The reason, or None while all trials that are left have their place.

    Args:
        autoscaler: what it is doing, in words; None where there is none or it does nothing.
        refused: node or place to why no engine starts there.
        before: searches that wait before this one; the last is next to it.
    """
    rooms = [wish.trials_each if one.room is None else one.room for one in _ready(engines)]
    waiting = wish.trials - sum(rooms)
    if waiting <= 0:
        return None
    starting = [name for name, one in engines.items() if one.state in ("starting", "loading")]
    if starting or decision.start:
        return _starting(nodes, engines, starting, decision)
    if autoscaler is not None and decision.missing:
        return WaitingRecord(kind="node-starting", detail=autoscaler)
    if not engines:
        return _nothing(nodes, wish, refused or {}, before)
    each = f"{rooms[0]} trials each" if len(set(rooms)) == 1 else f"{sum(rooms)} trials in all"
    capped = wish.most is not None and len(engines) >= wish.most
    free = f"another {_behind(before)}" if before else "no place is free for another"
    more = "engine.count allows no more" if capped else free
    detail = f"all {len(engines)} engines are full ({each}), and {more}; {waiting} trials wait"
    return WaitingRecord(kind="full", detail=detail)


def _ready(engines: Mapping[str, EngineView]) -> list[EngineView]:
    return [one for one in engines.values() if one.state == "ready"]


def _starting(
    nodes: Sequence[Node],
    engines: Mapping[str, EngineView],
    starting: Sequence[str],
    decision: Decision,
) -> WaitingRecord:
    names = {node.id: node.name for node in nodes}
    told = [(name.partition("/")[0], engines[name].state) for name in starting]
    told += [(place.node, "starting") for place in decision.start]
    parts = [
        f"{names.get(node, node[:8])} ({'loads the model' if state == 'loading' else state})"
        for node, state in told
    ]
    return WaitingRecord(kind="engine-starting", detail=f"engines start on {', '.join(parts)}")


def _behind(before: Sequence[str]) -> str:
    return f"waits behind {before[-1]} ({len(before)} before it)"


def _nothing(
    nodes: Sequence[Node], wish: Wish, refused: Mapping[str, str], before: Sequence[str]
) -> WaitingRecord:
    """Why there is no engine at all."""
    fitting = [node for node in nodes if places_of(node, wish.gpus)]
    if not nodes:
        return WaitingRecord(kind="no-node", detail="no node is alive")
    if not fitting and wish.gpus:
        most = int(max(node.gpus for node in nodes))
        have = f"the largest has {most}" if most else f"none of the {len(nodes)} has any"
        detail = f"no node has the {wish.gpus} GPUs that an engine takes: {have}; add one"
        return WaitingRecord(kind="no-gpu", detail=detail)
    if not fitting:
        return WaitingRecord(kind="no-node", detail="no node has a CPU for an engine: add one")
    what = "GPUs" if wish.gpus else "CPUs"
    if before:
        return WaitingRecord(kind="queued", detail=f"{_behind(before)} for {what}")
    told = [
        reason
        for key, reason in refused.items()
        if any(node.id == key.partition("/")[0] for node in fitting)
    ]
    if told:
        return WaitingRecord(kind="refused", detail=told[-1])
    detail = f"the {what} of all {len(fitting)} nodes are in use by others"
    return WaitingRecord(kind="busy", detail=detail)
