"""Insertion strategies: where groups of latent tokens go, and which group goes where.

    s_0   s_1  s_2  ,    s_4  ...          verbal tokens
    BOS [u u] 4  4  [v]  ,   8  ...        start (m=2) and delimiter "," (m=1), by_trigger

A strategy is pure data. `trainable.layout` applies it to one sequence. The words and the
exact rules are those of design section 3; the method is that of arXiv 2505.12629,
section 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

from trainable.errors import StrategyError

_Member = TypeVar("_Member", bound=StrEnum)


class TriggerKind(StrEnum):
    """The rule that makes sites."""

    START = "start"
    END = "end"
    DELIMITER = "delimiter"
    EVERY = "every"


class Readout(StrEnum):
    """Which slot predicts the verbal token behind a site."""

    VERBAL = "verbal"  # s_{i-1}, over the latents' heads: they are spliced once s_i is known
    LATENT = "latent"  # the last latent before s_i


class Side(StrEnum):
    """On which side of a matched delimiter its site stands."""

    BEFORE = "before"


class Specialization(StrEnum):
    """The rule that gives each site its group."""

    SHARED = "shared"  # one group everywhere
    BY_TRIGGER = "by_trigger"  # each trigger has its own


class PositionRule(StrEnum):
    """The position ids that latents take."""

    FOLLOWING = "following"  # that of the verbal token behind them, as in the paper


_FIELDS_OF_KIND: Mapping[TriggerKind, frozenset[str]] = MappingProxyType(
    {
        TriggerKind.START: frozenset(),
        TriggerKind.END: frozenset(),
        TriggerKind.DELIMITER: frozenset({"pattern", "side"}),
        TriggerKind.EVERY: frozenset({"k"}),
    }
)
_DEFAULT_READOUT: Mapping[TriggerKind, Readout] = MappingProxyType(
    {
        TriggerKind.START: Readout.LATENT,
        TriggerKind.END: Readout.LATENT,
        TriggerKind.DELIMITER: Readout.VERBAL,
        TriggerKind.EVERY: Readout.VERBAL,
    }
)


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """One rule that makes sites, and the size of the group that it puts there.

    Args:
        kind: the rule; it decides which of `k`, `pattern` and `side` exist.
        m: latent tokens per site, at least 1.
        k: `every` alone: one site after each k verbal tokens, at least 1.
        pattern: `delimiter` alone: a regular expression searched in the decoded text of
            single tokens; default ",".
        side: `delimiter` alone: the site's place relative to the matched token.
        readout: default `latent` for `start` and `end`, `verbal` elsewhere.

    Raises:
        StrategyError: for a field that the kind lacks, a missing or impossible value, or a
            readout that the kind cannot have.
    """

    kind: TriggerKind
    m: int = 1
    k: int | None = None
    pattern: str | None = None
    side: Side | None = None
    readout: Readout | None = None

    def __post_init__(self) -> None:
        kind = _member(TriggerKind, "kind", self.kind)
        _set(self, "kind", kind)
        self._refuse_foreign_fields()
        _require_count("m", self.m)
        if kind is TriggerKind.EVERY:
            if self.k is None:
                raise StrategyError("k is missing: `every` needs the period k, e.g. k: 8")
            _require_count("k", self.k)
        if kind is TriggerKind.DELIMITER:
            _set(self, "pattern", _pattern("," if self.pattern is None else self.pattern))
            _set(self, "side", _member(Side, "side", self.side or Side.BEFORE))
        readout = _member(Readout, "readout", self.readout or _DEFAULT_READOUT[kind])
        _set(self, "readout", readout)
        if readout is Readout.LATENT and kind is TriggerKind.DELIMITER:
            raise StrategyError(
                "readout: latent contradicts side: before; the site is known only once the "
                "delimiter is there, so its latents cannot predict it: use readout: verbal"
            )

    def _refuse_foreign_fields(self) -> None:
        for name in ("k", "pattern", "side"):
            if getattr(self, name) is not None and name not in _FIELDS_OF_KIND[self.kind]:
                owner = next(kind for kind, names in _FIELDS_OF_KIND.items() if name in names)
                raise StrategyError(
                    f"{name}={getattr(self, name)!r} does not belong to kind: {self.kind}; "
                    f"only `{owner}` has {name}: remove it or change the kind"
                )

    @property
    def short_name(self) -> str:
        """`start4`, `end2`, `comma1`, `delimiter2`, `every8x2`; `!` marks an unusual readout."""
        mark = "" if self.readout is _DEFAULT_READOUT[self.kind] else "!" + str(self.readout)
        if self.kind is TriggerKind.EVERY:
            return f"every{self.k}x{self.m}{mark}"
        name = "comma" if self.pattern == "," else str(self.kind)
        return f"{name}{self.m}{mark}"


@dataclass(frozen=True, kw_only=True)
class InsertionStrategy:
    """All that decides a layout: triggers, function specialization, position rule.

    Args:
        triggers: name to trigger, in order; empty means no latents at all. Where several
            meet, their latents are spliced in this order.
        specialization: which group each site takes.
        position_rule: the latents' position ids.

    Raises:
        StrategyError: where triggers that share a group differ in m.
    """

    triggers: Mapping[str, Trigger] = field(default_factory=dict)
    specialization: Specialization = Specialization.SHARED
    position_rule: PositionRule = PositionRule.FOLLOWING

    def __post_init__(self) -> None:
        _set(self, "triggers", MappingProxyType(dict(self.triggers)))
        _set(
            self,
            "specialization",
            _member(Specialization, "specialization", self.specialization),
        )
        _set(self, "position_rule", _member(PositionRule, "position_rule", self.position_rule))
        sizes = {name: trigger.m for name, trigger in self.triggers.items()}
        if self.specialization is Specialization.SHARED and len(set(sizes.values())) > 1:
            listed = ", ".join(f"triggers.{name}.m={m}" for name, m in sizes.items())
            raise StrategyError(
                f"specialization: shared needs the same m everywhere, got {listed}: "
                "make them equal or use specialization: by_trigger"
            )

    @property
    def group_of_trigger(self) -> Mapping[str, int]:
        """Trigger name to the index of its group."""
        if self.specialization is Specialization.SHARED:
            return {name: 0 for name in self.triggers}
        return {name: index for index, name in enumerate(self.triggers)}

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Latents per group; the groups' rows of [L, D] follow each other in this order."""
        sizes = {self.group_of_trigger[name]: t.m for name, t in self.triggers.items()}
        return tuple(sizes[group] for group in range(len(sizes)))

    @property
    def latent_count(self) -> int:
        """L, the latents in all groups: the rows of the trained parameter."""
        return sum(self.group_sizes)

    @property
    def short_name(self) -> str:
        """The strategy's name everywhere: `start4+every8x2~by_trigger`, or `none`."""
        if not self.triggers:
            return "none"
        name = "+".join(trigger.short_name for trigger in self.triggers.values())
        if len(self.triggers) > 1 and self.specialization is not Specialization.SHARED:
            name += f"~{self.specialization}"
        return name

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back."""
        return {
            "triggers": {
                name: {key: _plain(value) for key, value in asdict(t).items() if value is not None}
                for name, t in self.triggers.items()
            },
            "specialization": str(self.specialization),
            "position_rule": str(self.position_rule),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> InsertionStrategy:
        """Read plain data. Raises StrategyError, naming the field, for anything unknown."""
        _refuse_unknown(cls, data, "strategy")
        named = data.get("triggers", {})
        if not isinstance(named, Mapping):
            raise StrategyError(f"strategy.triggers must be a mapping of names, got {named!r}")
        triggers: dict[str, Trigger] = {}
        for name, fields in named.items():
            path = f"strategy.triggers.{name}"
            _refuse_unknown(Trigger, fields, path)
            if "kind" not in fields:
                raise StrategyError(f"{path}.kind is missing: one of {_listed(TriggerKind)}")
            try:
                triggers[name] = Trigger(**fields)
            except StrategyError as error:
                raise StrategyError(f"{path}.{error}") from None
        rest = {key: value for key, value in data.items() if key != "triggers"}
        try:
            return cls(triggers=triggers, **rest)
        except StrategyError as error:
            raise StrategyError(f"strategy.{error}") from None


def _refuse_unknown(cls: type, data: Mapping[str, Any], path: str) -> None:
    if not isinstance(data, Mapping):
        raise StrategyError(f"{path} must be a mapping, got {data!r}")
    known = cls.__dataclass_fields__  # type: ignore[attr-defined]
    unknown = [key for key in data if key not in known]
    if unknown:
        raise StrategyError(f"{path}.{unknown[0]} is unknown; known: {', '.join(known)}")


def _require_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise StrategyError(f"{name}={value!r} must be a whole number of at least 1")


def _pattern(pattern: str) -> str:
    if not isinstance(pattern, str) or not pattern:
        raise StrategyError(f"pattern={pattern!r} must be a regular expression, e.g. ','")
    try:
        re.compile(pattern)
    except re.error as error:
        raise StrategyError(f"pattern={pattern!r} is no regular expression: {error}") from None
    return pattern


def _member(enum: type[_Member], name: str, value: Any) -> _Member:
    try:
        return enum(value)
    except ValueError:
        raise StrategyError(f"{name}={value!r} is unknown; one of {_listed(enum)}") from None


def _plain(value: object) -> object:
    return value.value if isinstance(value, StrEnum) else value


def _listed(enum: type[StrEnum]) -> str:
    return ", ".join(enum)


def _set(instance: object, name: str, value: object) -> None:
    object.__setattr__(instance, name, value)  # normalising inside a frozen dataclass
