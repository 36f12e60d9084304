"""Insertion strategies: where groups of latent tokens go, and which group goes where.

    s_0   s_1  s_2  ,    s_4  ...          verbal tokens
    BOS [u u] 4  4  [v]  ,   8  ...        start (m=2) and delimiter "," (m=1), by_trigger

A strategy is pure data. `trainable.layout` applies it to one sequence. The words and the
exact rules are those of design section 3; the method is that of arXiv 2505.12629,
section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from trainable.errors import StrategyError
from trainable.field_checks import member, refuse_unknown, require_count, set_field
from trainable.trigger import Trigger, TriggerKind

MOST_GROUPS = 4096
MOST_LATENTS_IN_ALL = 65_536  # their moments and copies still fit anywhere


class Specialization(StrEnum):
    """The rule that gives each site its group."""

    SHARED = "shared"  # one group everywhere
    BY_TRIGGER = "by_trigger"  # each trigger has its own
    BY_REGION = "by_region"  # query and response differ
    CYCLE = "cycle"  # the j-th site of the sequence takes group j mod G


class PositionRule(StrEnum):
    """The position ids that latents take."""

    FOLLOWING = "following"  # that of the verbal token behind them, as in the paper
    PRECEDING = "preceding"  # that of the verbal token in front of them, or 0
    OWN = "own"  # everything counts up, latents included


@dataclass(frozen=True, kw_only=True)
class InsertionStrategy:
    """All that decides a layout: triggers, function specialization, position rule.

    Args:
        triggers: name to trigger, in order; empty means no latents at all. Where several
            meet, their latents are spliced in this order.
        specialization: which group each site takes.
        groups: `cycle` alone: G, at least 2. Elsewhere G follows from the rule.
        position_rule: the latents' position ids.

    Raises:
        StrategyError: where triggers that share a group differ in m, a group would have no
            site, or `groups` is missing or out of place.
    """

    triggers: Mapping[str, Trigger] = field(default_factory=dict)
    specialization: Specialization = Specialization.SHARED
    groups: int | None = None
    position_rule: PositionRule = PositionRule.FOLLOWING

    def __post_init__(self) -> None:
        set_field(self, "triggers", MappingProxyType(dict(self.triggers)))
        for name, enum in (("specialization", Specialization), ("position_rule", PositionRule)):
            set_field(self, name, member(enum, name, getattr(self, name)))
        self._check_groups()
        if not self.triggers:
            return
        self._check_regions()
        if self.latent_count > MOST_LATENTS_IN_ALL:
            raise StrategyError(
                f"triggers and groups make {self.latent_count} latents in all, expected at most "
                f"{MOST_LATENTS_IN_ALL}: lower m or groups"
            )

    def _check_regions(self) -> None:
        if self.specialization is Specialization.BY_REGION:
            self._check_region("query", [n for n, t in self.triggers.items() if t.reaches_query])
            self._check_region(
                "response", [n for n, t in self.triggers.items() if t.reaches_response]
            )
        elif self.specialization is not Specialization.BY_TRIGGER:
            self._require_one_m(list(self.triggers), "everywhere")

    def _check_groups(self) -> None:
        if self.specialization is Specialization.CYCLE:
            if self.groups is None:
                raise StrategyError("groups is missing: `cycle` needs G, e.g. groups: 2")
            require_count("groups", self.groups, low=2, high=MOST_GROUPS)
        elif self.groups is not None:
            raise StrategyError(
                f"groups={self.groups!r} does not belong to specialization: "
                f"{self.specialization}, where G follows from the rule: remove it or use cycle"
            )

    def _check_region(self, region: str, names: list[str]) -> None:
        if not names:
            raise StrategyError(
                f"specialization: by_region needs sites in query and response, but no trigger "
                f"reaches the {region}: add one, or use shared or by_trigger"
            )
        self._require_one_m(names, f"in the {region}")

    def _require_one_m(self, names: list[str], where: str) -> None:
        sizes = {name: self.triggers[name].m for name in names}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"triggers.{name}.m={m}" for name, m in sizes.items())
            raise StrategyError(
                f"specialization: {self.specialization} needs the same m {where}, got {listed}: "
                "make them equal or use specialization: by_trigger"
            )

    def groups_of(self, name: str) -> tuple[int, int]:
        """The groups that a trigger's sites take in the query and in the response.

        With `cycle` a site's group follows from its place in the sequence instead; what this
        gives is that of the first.
        """
        if self.specialization is Specialization.BY_TRIGGER:
            index = list(self.triggers).index(name)
            return index, index
        return (0, 1) if self.specialization is Specialization.BY_REGION else (0, 0)

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Latents per group; the groups' rows of [L, D] follow each other in this order."""
        if not self.triggers:
            return ()
        triggers = self.triggers.values()
        sizes = tuple(t.m for t in triggers)
        if self.specialization is Specialization.BY_TRIGGER:
            return sizes
        if self.specialization is Specialization.BY_REGION:
            return (
                next(t.m for t in triggers if t.reaches_query),
                next(t.m for t in triggers if t.reaches_response),
            )
        return sizes[:1] * (self.groups or 1)

    @property
    def latent_count(self) -> int:
        """L, the latents in all groups: the rows of the trained parameter."""
        return sum(self.group_sizes)

    @property
    def short_name(self) -> str:
        """The strategy's name everywhere: `start4+every8x2~by_trigger`, or `none`.

        Behind the triggers stands what is unusual: specialization, then position rule.
        """
        if not self.triggers:
            return "none"
        name = "+".join(trigger.short_name for trigger in self.triggers.values())
        if self.specialization is Specialization.CYCLE:
            name += f"~cycle{self.groups}"
        elif len(self.group_sizes) > 1:
            name += f"~{self.specialization}"
        if self.position_rule is not PositionRule.FOLLOWING:
            name += f"~{self.position_rule}"
        return name

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        data: dict[str, Any] = {
            "triggers": {
                name: {key: _plain(value) for key, value in asdict(t).items() if value is not None}
                for name, t in self.triggers.items()
            },
            "specialization": str(self.specialization),
            "position_rule": str(self.position_rule),
        }
        return data if self.groups is None else data | {"groups": self.groups}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> InsertionStrategy:
        """Read plain data. Raises StrategyError, naming the field, for anything unknown."""
        refuse_unknown(cls, data, "strategy")
        named = data.get("triggers", {})
        if not isinstance(named, Mapping):
            raise StrategyError(f"strategy.triggers must be a mapping of names, got {named!r}")
        triggers: dict[str, Trigger] = {}
        for name, fields in named.items():
            path = f"strategy.triggers.{name}"
            refuse_unknown(Trigger, fields, path)
            if "kind" not in fields:
                raise StrategyError(f"{path}.kind is missing: one of {', '.join(TriggerKind)}")
            try:
                triggers[name] = Trigger(**fields)
            except StrategyError as error:
                raise StrategyError(f"{path}.{error}") from None
        rest = {key: value for key, value in data.items() if key != "triggers"}
        try:
            return cls(triggers=triggers, **rest)
        except StrategyError as error:
            raise StrategyError(f"strategy.{error}") from None


def _plain(value: object) -> object:
    return value.value if isinstance(value, StrEnum) else value
