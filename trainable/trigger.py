"""Triggers: the rules that make sites, each with the size of the group that it puts there.

    kind        a site stands                                    fields of its own
    start       before the first query token behind BOS
    end         before the first response token
    delimiter   before or right after each matching token        pattern, side, region
    every       after each k verbal tokens                       k, region
    random      where a hash of (seed, query, place) says so     rate, seed, region

A trigger is pure data; `trainable.layout` applies it. The rules are those of design
section 3; `start`, `end`, `delimiter/before` and `every` are those of arXiv 2505.12629,
section 3.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from trainable.errors import StrategyError
from trainable.field_checks import member, require_count, require_share, set_field


class TriggerKind(StrEnum):
    """The rule that makes sites."""

    START = "start"
    END = "end"
    DELIMITER = "delimiter"
    EVERY = "every"
    RANDOM = "random"  # a control: as many sites, in no place of their own


class Readout(StrEnum):
    """Which slot predicts the verbal token behind a site."""

    VERBAL = "verbal"  # s_{i-1}, over the latents' heads: they are spliced once s_i is known
    LATENT = "latent"  # the last latent before s_i


class Side(StrEnum):
    """On which side of a matched delimiter its site stands."""

    BEFORE = "before"
    AFTER = "after"


class Region(StrEnum):
    """Where a trigger may make sites."""

    QUERY = "query"
    RESPONSE = "response"
    BOTH = "both"


_FIELDS_OF_KIND: Mapping[TriggerKind, frozenset[str]] = MappingProxyType(
    {
        TriggerKind.START: frozenset(),
        TriggerKind.END: frozenset(),
        TriggerKind.DELIMITER: frozenset({"pattern", "side", "region"}),
        TriggerKind.EVERY: frozenset({"k", "region"}),
        TriggerKind.RANDOM: frozenset({"rate", "seed", "region"}),
    }
)
MOST_LATENTS = 4096  # of a group; far beyond any use, and before a slip fills the memory
_MOST_TOKENS = 2**31 - 1
_MOST_SEED = 2**64 - 1
_OWN_FIELDS = ("k", "pattern", "side", "rate", "seed", "region")


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """One rule that makes sites.

    Args:
        kind: the rule; it decides which of the fields below `m` exist.
        m: latent tokens per site, from 1 to `MOST_LATENTS`.
        k: `every` alone: one site after each k verbal tokens, at least 1.
        pattern: `delimiter` alone: a regular expression searched in the decoded text of
            single tokens; default ",".
        side: `delimiter` alone: the site's place relative to the matched token; default
            `before`.
        rate: `random` alone: the share of verbal tokens with a site before them, in (0, 1].
        seed: `random` alone: another seed, other sites; default 0,
            below 2**64.
        region: `delimiter`, `every` and `random`: where sites may be; default `both`. The
            region of a delimiter's site is that of the matched token, otherwise that of the
            token behind the site.
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
    rate: float | None = None
    seed: int | None = None
    region: Region | None = None
    readout: Readout | None = None

    def __post_init__(self) -> None:
        set_field(self, "kind", member(TriggerKind, "kind", self.kind))
        self._refuse_foreign_fields()
        require_count("m", self.m, high=MOST_LATENTS)
        if "region" in _FIELDS_OF_KIND[self.kind]:
            set_field(self, "region", member(Region, "region", self.region or Region.BOTH))
        if self.kind is TriggerKind.EVERY:
            if self.k is None:
                raise StrategyError("k is missing: `every` needs the period k, e.g. k: 8")
            require_count("k", self.k, high=_MOST_TOKENS)
        elif self.kind is TriggerKind.DELIMITER:
            set_field(self, "pattern", _pattern("," if self.pattern is None else self.pattern))
            set_field(self, "side", member(Side, "side", self.side or Side.BEFORE))
        elif self.kind is TriggerKind.RANDOM:
            if self.rate is None:
                raise StrategyError(
                    "rate is missing: `random` needs the share of tokens with a site, e.g. 0.125"
                )
            require_share("rate", self.rate)
            set_field(self, "rate", float(self.rate))
            set_field(self, "seed", 0 if self.seed is None else self.seed)
            require_count("seed", self.seed, low=0, high=_MOST_SEED)
        set_field(self, "readout", member(Readout, "readout", self.readout or self._usual_readout))
        if self.readout is Readout.LATENT and self.side is Side.BEFORE:
            raise StrategyError(
                "readout: latent contradicts side: before; the site is known only once the "
                "delimiter is there, so its latents cannot predict it: use readout: verbal or "
                "side: after"
            )

    def _refuse_foreign_fields(self) -> None:
        for name in _OWN_FIELDS:
            if getattr(self, name) is not None and name not in _FIELDS_OF_KIND[self.kind]:
                owners = [f"`{kind}`" for kind, names in _FIELDS_OF_KIND.items() if name in names]
                raise StrategyError(
                    f"{name}={getattr(self, name)!r} does not belong to kind: {self.kind}; only "
                    f"{', '.join(owners)} can have {name}: remove it or change the kind"
                )

    @property
    def _usual_readout(self) -> Readout:
        latent = self.kind in (TriggerKind.START, TriggerKind.END)
        return Readout.LATENT if latent else Readout.VERBAL

    @property
    def reaches_query(self) -> bool:
        """Whether its sites may be of the query."""
        return self.region is not Region.RESPONSE

    @property
    def reaches_response(self) -> bool:
        """Whether its sites may be of the response; `start` and `end` are of the query."""
        return self.region in (Region.RESPONSE, Region.BOTH)

    @property
    def shown_pattern(self) -> str:
        """The pattern on one line."""
        return str(self.pattern).replace("\n", r"\n").replace("\t", r"\t")

    @property
    def short_name(self) -> str:
        """`start4`, `comma2`, `aftercomma2`, `delimiter(=)2`, `every8x2`, `random0.1x2`.

        Behind it stands what is unusual: `@query`, `@response`, `!latent`, `!verbal`.
        """
        region = "" if self.region in (None, Region.BOTH) else f"@{self.region}"
        readout = "" if self.readout is self._usual_readout else f"!{self.readout}"
        return f"{self._rule_name}{region}{readout}"

    @property
    def _rule_name(self) -> str:
        if self.kind is TriggerKind.EVERY:
            return f"every{self.k}x{self.m}"
        if self.kind is TriggerKind.RANDOM:
            seed = f"#{self.seed}" if self.seed else ""
            return f"random{self.rate:g}{seed}x{self.m}"
        if self.kind is TriggerKind.DELIMITER:
            after = self.side is Side.AFTER
            if self.pattern == ",":
                return f"{'aftercomma' if after else 'comma'}{self.m}"
            return f"{'after' if after else 'delimiter'}({self.shown_pattern}){self.m}"
        return f"{self.kind}{self.m}"


def _pattern(pattern: str) -> str:
    if not isinstance(pattern, str) or not pattern:
        raise StrategyError(f"pattern={pattern!r} must be a regular expression, e.g. ','")
    try:
        re.compile(pattern)
    except re.error as error:
        raise StrategyError(f"pattern={pattern!r} is no regular expression: {error}") from None
    return pattern
