"""Attention shares as data: a long table in Parquet, and the summary that `--json` prints.

The table has one row per layer, head (-1: the mean over heads), verbal token and site that
the token has behind it, and one with an empty site for all the verbal tokens together:

    layer head verbal token site group trigger before distance newer  share  uniform
        2   -1     17     4    1     0   comma     15        3     0  0.412    0.087
        2   -1     17     4                                           0.502    0.826
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.results import SCHEMA_VERSION, Record
from trainable.artifact import Artifact
from trainable.attention import AttentionShares, View
from trainable.data import EncodedRow
from trainable.decoding import LatentLM
from trainable.strategy import InsertionStrategy, Specialization

MEAN = -1  # in place of a layer's or a head's number

_WORD = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema(
    [
        ("layer", pa.int16()),
        ("head", pa.int16()),
        ("verbal", pa.int32()),
        ("token", _WORD),
        ("site", pa.int32()),
        ("group", pa.int16()),
        ("trigger", _WORD),
        ("before", pa.int32()),
        ("distance", pa.int32()),
        ("newer", pa.int32()),
        ("share", pa.float32()),
        ("uniform", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Subject:
    """What was looked at.

    Args:
        strategy: its short name.
        tokens: the text of each verbal token.
        query_length: the first so many of them are the query.
        triggers: for each group the trigger that alone puts it anywhere; None where several may.
    """

    strategy: str
    trial_uid: str
    tokens: Sequence[str]
    query_length: int
    triggers: Sequence[str | None]


class InspectedSite(Record):
    """One inserted group.

    Args:
        group: which group of the strategy stands there.
        trigger: what put it there, where the group alone tells.
        before: the verbal token that it stands before, as its place in `tokens`.
        m: its latents.
    """

    group: int
    trigger: str | None
    before: int
    m: int


class Curve(Record):
    """Mean share of attention on the sites of one group, in one layer.

    Args:
        layer: -1 for the mean over layers.
        at: distances in verbal tokens, or numbers of newer places.
        share: for each of these, the mean over heads and over pairs of a token and a site.
        uniform: what it would be if each token looked at all that it can see alike.
        pairs: how many pairs there are.
    """

    layer: int
    group: int
    at: list[int]
    share: list[float]
    uniform: list[float]
    pairs: list[int]


class Inspection(Record):
    """Who looks at what in one sequence; shares are of 1.

    Args:
        inspection: digest of what was asked for.
        folder: where the files are.
        artifact: the artifact folder.
        tokens: the text of each verbal token; the first `query_length` are the query.
        latest_by_distance: the latest site, by how many verbal tokens ago it came: 1 for the
            token right behind it.
        previous_by_distance: the site before the latest, likewise.
        by_newer: any site, by how many newer places with sites have come since.
    """

    schema_version: int = SCHEMA_VERSION
    inspection: str
    folder: str
    artifact: str
    strategy: str
    trial_uid: str
    tokens: list[str]
    query_length: int
    layers: int
    heads: int
    sites: list[InspectedSite]
    latest_by_distance: list[Curve]
    previous_by_distance: list[Curve]
    by_newer: list[Curve]


def subject_of(artifact: Artifact, lm: LatentLM, row: EncodedRow) -> Subject:
    """What is looked at where an artifact's latents stand in a row."""
    strategy = artifact.config.strategy
    return Subject(
        strategy=strategy.short_name,
        trial_uid=str(artifact.provenance.get("trial_uid", "unknown trial")),
        tokens=[str(lm.tokenizer.decode([token])) for token in row.ids.tolist()],
        query_length=row.query_length,
        triggers=triggers_of_groups(strategy),
    )


def triggers_of_groups(strategy: InsertionStrategy) -> list[str | None]:
    """For each group the trigger that alone puts it anywhere; None where several may."""
    names: list[str | None] = list(strategy.triggers)
    groups = len(strategy.group_sizes)
    if len(names) == 1:
        return names * groups
    return names if strategy.specialization is Specialization.BY_TRIGGER else [None] * groups


def summarise(
    shares: AttentionShares, subject: Subject, *, inspection: str, folder: Path, artifact: Path
) -> Inspection:
    """Sum an inspection up."""
    groups = groups_met(shares)
    return Inspection(
        inspection=inspection,
        folder=str(folder),
        artifact=str(artifact),
        strategy=subject.strategy,
        trial_uid=subject.trial_uid,
        tokens=list(subject.tokens),
        query_length=subject.query_length,
        layers=shares.share_KHNS.shape[0],
        heads=shares.share_KHNS.shape[1],
        sites=[
            InspectedSite(group=s.group, trigger=subject.triggers[s.group], before=s.before, m=s.m)
            for s in shares.sites
        ],
        latest_by_distance=[c for g in groups for c in _curves(g, 1, shares.by_distance(g, 0))],
        previous_by_distance=[c for g in groups for c in _curves(g, 1, shares.by_distance(g, 1))],
        by_newer=[c for g in groups for c in _curves(g, 0, shares.by_newer(g))],
    )


def groups_met(shares: AttentionShares) -> list[int]:
    """The groups that have a site in the sequence."""
    return sorted({site.group for site in shares.sites})


def _curves(group: int, first: int, view: View) -> Iterator[Curve]:
    """The mean over layers, then each layer; column 0 stands for `first`."""
    columns = np.flatnonzero(view.pairs_W)
    rows = [(MEAN, view.share_KW.mean(0), view.uniform_KW.mean(0))]
    rows += [(k, view.share_KW[k], view.uniform_KW[k]) for k in range(len(view.share_KW))]
    for layer, share_W, uniform_W in rows if len(columns) else ():
        yield Curve(
            layer=layer,
            group=group,
            at=(columns + first).tolist(),
            share=share_W[columns].tolist(),
            uniform=uniform_W[columns].tolist(),
            pairs=view.pairs_W[columns].tolist(),
        )


def write_table(path: Path, shares: AttentionShares, subject: Subject) -> None:
    """Write the long table, one layer after the other."""
    distance_NS = shares.distance_NS
    # One column more than there are sites: the verbal tokens together.
    listed_NC = np.pad(distance_NS > 0, ((0, 0), (0, 1)), constant_values=True)
    token_R, column_R = np.nonzero(listed_NC)
    places = _places(token_R, column_R, shares, subject)
    with pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        for layer, share_HNS in enumerate(shares.share_KHNS):
            share_HNC = np.concatenate([share_HNS, shares.verbal_KHN[layer, ..., None]], axis=-1)
            uniform_NS = shares.uniform_KNS[layer]
            uniform_NC = np.pad(uniform_NS, ((0, 0), (0, 1)))
            uniform_NC[:, -1] = 1 - uniform_NS.sum(axis=1)
            share_HR = share_HNC[:, token_R, column_R]
            blocks = [(MEAN, share_HR.mean(axis=0)), *enumerate(share_HR)]
            writer.write_table(
                pa.concat_tables(
                    _block(places, layer, head, share_R, uniform_NC[token_R, column_R])
                    for head, share_R in blocks
                )
            )


def _block(places: pa.Table, layer: int, head: int, share_R: Any, uniform_R: Any) -> pa.Table:
    count = len(places)
    columns = {name: places[name] for name in places.column_names}
    columns["layer"] = pa.array(np.full(count, layer, dtype=np.int16))
    columns["head"] = pa.array(np.full(count, head, dtype=np.int16))
    columns["share"] = pa.array(share_R)
    columns["uniform"] = pa.array(uniform_R)
    return pa.table([columns[name] for name in _SCHEMA.names], schema=_SCHEMA)


def _places(token_R: Any, column_R: Any, shares: AttentionShares, subject: Subject) -> pa.Table:
    """The columns that are the same in every layer and head."""
    is_verbal_R = column_R == len(shares.sites)
    site_R = np.where(is_verbal_R, 0, column_R)
    group_R = np.array([site.group for site in shares.sites])[site_R]
    columns = {
        "site": site_R,
        "group": group_R,
        "before": np.array([site.before for site in shares.sites])[site_R],
        "distance": shares.distance_NS[token_R, site_R],
        "newer": shares.newer_NS[token_R, site_R],
    }
    arrays = {name: pa.array(values_R, mask=is_verbal_R) for name, values_R in columns.items()}
    names = [name or "" for name in subject.triggers]
    unknown_R = np.array([name is None for name in subject.triggers])[group_R]
    arrays["verbal"] = pa.array(token_R)
    arrays["token"] = _words(token_R, subject.tokens, np.zeros_like(is_verbal_R))
    arrays["trigger"] = _words(group_R, names, is_verbal_R | unknown_R)
    return pa.table({name: array.cast(_SCHEMA.field(name).type) for name, array in arrays.items()})


def _words(place_R: Any, texts: Sequence[str], empty_R: Any) -> pa.Array:
    """`texts[place]` for each row, each different text kept once."""
    known = list(dict.fromkeys(texts))
    index = np.array([known.index(text) for text in texts], dtype=np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(index[place_R], mask=empty_R), known)
