"""A confirmation's verdict in words, and what each control has in common with a candidate.

    comma2: better than start6 (prompt tuning, equal inserted tokens) at 12 equations by 12 to 31
    points; no difference in distribution

What is said of a control is worked out from its numbers and those of the candidate beside it: a
control that was made for another candidate is told by what it inserts itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from orchestrator.arms import NONE, control_words
from orchestrator.confirmation_record import ArmRecord, ComparisonRecord, ConfirmationRecord
from trainable.data import Split
from trainable.metrics import EXACT_MATCH, NLL, direction

_KINDS = {"start": "prompt tuning", "end": "pause tokens"}
_NEAR = 0.5  # latents per row: a control has a whole number of them


def metric_of(name: str) -> str:
    """`nll` of `val_ood/nll/12`."""
    return name.split("/")[1]


def side_of(objective: str) -> Split:
    """The test split on which a candidate must win."""
    return "test_ood" if objective.startswith("val_ood") else "test_id"


def in_words(
    candidate: ArmRecord, control: ArmRecord, comparisons: Sequence[ComparisonRecord], unit: str
) -> str:
    """`start4: better than start2 (…) at 26 equations by 12 to 31 points; no difference …`."""
    parts = []
    against = f"{control.strategy} ({role_of(control, candidate)})"
    for outcome in ("better", "worse"):
        there = [c for c in comparisons if c.outcome == outcome]
        if there:
            places = ", ".join(f"{_where(c, unit)} by {_gap(c)}" for c in there)
            parts.append(f"{outcome} than {against} {places}")
    same = [c for c in comparisons if c.outcome == "no difference"]
    if same:
        places = ", ".join(_where(c, unit) for c in same)
        than = "" if parts else f" from {against}"
        parts.append(f"no difference{than} {places}")
    return f"{candidate.strategy}: {'; '.join(parts)}"


def role_of(control: ArmRecord, candidate: ArmRecord) -> str:
    """What a control is beside one candidate, by the numbers of both."""
    if control.latents == 0:
        return NONE
    kind = control.strategy.rstrip("0123456789")
    per_row = abs(control.latents_per_row - candidate.latents_per_row) <= _NEAR
    if kind not in _KINDS:
        return (
            "as many latents at random sites"
            if per_row
            else f"random, {_sizes(control, candidate)}"
        )
    equal = ["equal parameters"] if control.latents == candidate.latents else []
    equal += ["equal inserted tokens"] if per_row else []
    return ", ".join([_KINDS[kind], *(equal or [_sizes(control, candidate)])])


def conclusion(
    champion: ArmRecord | None, arms: Sequence[ArmRecord], objective: str, judged: str = EXACT_MATCH
) -> str:
    """The champion in words, or that there is none."""
    if champion is None:
        return (
            f"Nothing is confirmed: by {judged} on {side_of(objective)}, no configuration is "
            "better than its best control somewhere and worse nowhere. There is no champion."
        )
    others = [arm.strategy for arm in arms if arm.confirmed and arm is not champion]
    if not others:
        return f"Champion: {champion.strategy}, the only one that is confirmed."
    return (
        f"Champion: {champion.strategy}; of the confirmed ones ({', '.join(others)} too) it is the "
        "best, or the simplest of those that do not differ from the best."
    )


def judging(objective: str, judged: str) -> list[str]:
    """What was judged where that is not what a reader would expect: no line, or one."""
    own = metric_of(objective)
    if judged == own:
        less = ", of which less is better" if direction(own) == "minimize" else ""
        return [] if own == EXACT_MATCH else [f"Judged by {own}, the objective's metric{less}."]
    return [
        f"Judged by {judged}, not by the objective's {own}, which needs whole answers and is not "
        "known item by item. What the objective itself would say is open."
    ]


def retold(record: ConfirmationRecord | None, unit: str) -> ConfirmationRecord | None:
    """A record of before controls said whose they are, with words that are true of its numbers.

    Its controls were the first candidate's, and were called equal beside every candidate.
    """
    if record is None or any(arm.control_for for arm in record.arms):
        return record
    ranks = tuple(arm.rank for arm in record.arms if arm.rank is not None)
    arms = [_owned(arm, ranks) for arm in record.arms]
    told = [_told(arm, arms, unit) for arm in arms]
    champion = next((arm for arm in told if arm.key == record.champion), None)
    verdict = [arm.words for arm in told if arm.words is not None]
    verdict.append(conclusion(champion, told, record.objective))
    return record.model_copy(update={"arms": told, "verdict": verdict})


def _owned(arm: ArmRecord, ranks: tuple[int, ...]) -> ArmRecord:
    if arm.control is None:
        return arm
    words = {part: [1] for part in re.split(", (?=equal)", arm.control)}
    return arm.model_copy(update={"control": control_words(words), "control_for": ranks})


def _told(arm: ArmRecord, arms: Sequence[ArmRecord], unit: str) -> ArmRecord:
    control = next((one for one in arms if one.key == arm.against), None)
    if control is None:
        return arm
    return arm.model_copy(update={"words": in_words(arm, control, arm.comparisons, unit)})


def _sizes(control: ArmRecord, candidate: ArmRecord) -> str:
    return (
        f"{control.latents_per_row:.3g} latents a row against its {candidate.latents_per_row:.3g}"
    )


def _where(comparison: ComparisonRecord, unit: str) -> str:
    if comparison.distance is None:
        return "in distribution"
    return (
        f"at distance {comparison.distance}"
        if unit == "distance"
        else f"at {comparison.distance} {unit}"
    )


def _gap(comparison: ComparisonRecord) -> str:
    """The interval as a distance towards the outcome: below 0 it reaches beyond no difference."""
    down = comparison.mean < 0
    low, high = (-comparison.high, -comparison.low) if down else (comparison.low, comparison.high)
    if metric_of(comparison.metric) == NLL:
        return f"{low:.2g} to {high:.2g} nats"
    return f"{round(100 * low)} to {round(100 * high)} points"
