"""What the verbal tokens look at: the share of attention that each pays to each site.

    s_0  [u u]  s_1  s_2  [u u]  s_3  s_4        slots, as laid out
          `- site 0         `- site 1
    s_4 looks back:  30 % site 0,  50 % site 1,  20 % verbal tokens (itself included)

One forward over the whole layout under eager attention, the one kernel that hands its
weights out; per layer they are summed over the slots of each site. A site is one inserted
group; tokens that stand before it pay it nothing. Two views sum the picture up: the share
by distance, as long as no newer site has come, and the share by how many newer ones have.
The paper's observation (arXiv 2505.12629) is that each group is read by the next few
verbal tokens, until the next group.

Shape suffixes: K layers, H heads, T slots, N verbal tokens, S sites, W columns of a view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from trainable.batch import PreparedRow, embed, prepare
from trainable.data import EncodedRow
from trainable.errors import AttentionError
from trainable.layout import NOT_LATENT, Layout
from trainable.layout_rules import Ints, LayoutRules

MOST_BYTES = 4 * 2**30  # of attention weights in memory, all layers and heads together
_REMEDY = "give a shorter prompt, or less to go on with"
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # eager softmax is float32 in both
_COARSE_TOLERANCE = 0.1  # bfloat16 and float16

Floats = npt.NDArray[np.float32]
Means = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Site:
    """One inserted group.

    Args:
        group: which group of the strategy stands there.
        before: the verbal token that it stands before, as its place i.
        slot: its first slot.
        m: its latents.
    """

    group: int
    before: int
    slot: int
    m: int


@dataclass(frozen=True)
class View:
    """Mean shares of a group's sites, over all pairs of a verbal token and a site.

    Args:
        share_KW: per layer and column, the mean over heads and pairs.
        uniform_KW: what it would be if each token looked at all that it can see alike.
        pairs_W: how many pairs stand behind a column; where none do, the means are NaN.
    """

    share_KW: Means
    uniform_KW: Means
    pairs_W: Ints


@dataclass(frozen=True)
class AttentionShares:
    """Who looks at what in one sequence.

    Args:
        sites: in order.
        share_KHNS: the share that a verbal token pays to a site; 0 to sites behind it.
        verbal_KHN: the share that it pays to verbal tokens, itself included. Together they are
            1, except in models whose attention has a sink of its own.
        uniform_KNS: the site's latents among all the slots that the token sees in this layer.
    """

    sites: tuple[Site, ...]
    share_KHNS: Floats
    verbal_KHN: Floats
    uniform_KNS: Floats

    @property
    def distance_NS(self) -> Ints:
        """How many verbal tokens ago a site came: 1 for the one right behind it, then 2, ..

        0 or less for the verbal tokens before the site, which do not see it.
        """
        count = self.verbal_KHN.shape[2]
        return np.arange(count)[:, None] - self._before_S[None] + 1

    @property
    def newer_NS(self) -> Ints:
        """How many newer places with sites a token has behind it, for each site before it.

        0 for the latest site; sites before the same verbal token count as one place.
        """
        places = np.unique(self._before_S)
        count = self.verbal_KHN.shape[2]
        passed_N = np.searchsorted(places, np.arange(count), side="right")
        return passed_N[:, None] - np.searchsorted(places, self._before_S, side="right")[None]

    def by_distance(self, group: int, newer: int = 0) -> View:
        """Column d - 1: sites of the group that came d verbal tokens ago.

        Args:
            newer: so many newer places with sites have come since; 0 for the latest site.
        """
        chosen_NS = (self.distance_NS > 0) & (self.newer_NS == newer)
        return self._view(self.distance_NS - 1, chosen_NS & self._is_group_S(group))

    def by_newer(self, group: int) -> View:
        """Column c: sites of the group since which c newer places with sites have come."""
        return self._view(self.newer_NS, (self.distance_NS > 0) & self._is_group_S(group))

    @property
    def _before_S(self) -> Ints:
        return np.array([site.before for site in self.sites], dtype=np.int64)

    def _is_group_S(self, group: int) -> npt.NDArray[np.bool_]:
        return np.array([site.group == group for site in self.sites], dtype=np.bool_)

    def _view(self, column_NS: Ints, chosen_NS: npt.NDArray[np.bool_]) -> View:
        token_P, site_P = np.nonzero(chosen_NS)
        column_P = column_NS[token_P, site_P]
        pairs_W = np.bincount(column_P)

        def mean(values_KNS: Floats) -> Means:
            sums = [np.bincount(column_P, values_NS[token_P, site_P]) for values_NS in values_KNS]
            return np.stack(sums) / np.where(pairs_W, pairs_W, np.nan)

        return View(mean(self.share_KHNS.mean(axis=1)), mean(self.uniform_KNS), pairs_W)


def find_sites(layout: Layout, group_sizes: Sequence[int]) -> tuple[Site, ...]:
    """The sites of a layout: wherever a group's first row stands, the group was inserted."""
    first_rows = np.concatenate([[0], np.cumsum(group_sizes)])[:-1].tolist()
    group_of_row = {row: group for group, row in enumerate(first_rows)}
    return tuple(
        Site(group_of_row[row], int(layout.verbal_T[slot]), slot, group_sizes[group_of_row[row]])
        for slot, row in enumerate(layout.latent_T.tolist())
        if row in group_of_row
    )


@torch.no_grad()
def read_attention(
    model: PreTrainedModel,
    latents: torch.Tensor,
    rules: LayoutRules,
    row: EncodedRow,
    group_sizes: Sequence[int],
) -> AttentionShares:
    """Lay a sequence out, run it once, and sum the attention of its verbal tokens up.

    Args:
        model: the frozen model; its attention implementation is as before afterwards.
        latents: [L, D].
        rules: the strategy, resolved for the model's vocabulary.
        group_sizes: the strategy's.

    Raises:
        AttentionError: if the sequence is too long for the model or for memory, or the model
            does not hand its attention out.
        StrategyError: if nothing predicts the first response token.
    """
    prepared = prepare(0, row, rules)
    layout = prepared.layout
    check_context(model, int(layout.position_T.max(initial=0)) + 1)
    _check_memory(model, len(layout))
    sites = find_sites(layout, group_sizes)
    member_TS = torch.from_numpy(_membership(layout, sites))
    tokens = torch.from_numpy(np.flatnonzero(layout.latent_T == NOT_LATENT))
    shares, uniforms = [], []
    for attention_HTT in _attentions(model, latents, prepared):
        weights_HNT = attention_HTT.cpu()[:, tokens].float()
        # What no head gives any weight is masked: outside a sliding window, or in the future.
        seen_NT = (weights_HNT > 0).any(0).float()
        shares.append(weights_HNT @ member_TS)
        uniforms.append(seen_NT @ member_TS / seen_NT.sum(-1, keepdim=True))
    share_KHNS, uniform_KNS = torch.stack(shares).numpy(), torch.stack(uniforms).numpy()
    return AttentionShares(
        sites, share_KHNS[..., :-1], share_KHNS[..., -1], uniform_KNS[..., :-1]
    )  # the last column is that of the verbal tokens


def check_context(model: PreTrainedModel, positions: int) -> None:
    """Raise AttentionError for more positions than the model has."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and positions > context:
        raise AttentionError(
            f"the sequence needs {positions} positions, the base model's context is {context}: "
            f"{_REMEDY}"
        )


def _check_memory(model: PreTrainedModel, slots: int) -> None:
    config = model.config.get_text_config()
    layers, heads = config.num_hidden_layers, getattr(config, "num_attention_heads", 1)
    most = int((MOST_BYTES / (4 * layers * heads)) ** 0.5)
    if slots > most:
        raise AttentionError(
            f"the sequence has {slots} slots, latents included: the attention of {layers} layers "
            f"with {heads} heads fits {MOST_BYTES / 2**30:.0f} GiB up to {most} slots: {_REMEDY}"
        )


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model compute attention in the open, and give it back its own way afterwards."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before or "eager")


def _attentions(
    model: PreTrainedModel, latents: torch.Tensor, row: PreparedRow
) -> list[torch.Tensor]:
    """Run one row; per layer, its attention weights [H, T, T]."""
    embeds_BTD, position_BT = embed([row], [latents], model.get_input_embeddings())
    inputs = {
        "inputs_embeds": embeds_BTD,
        "position_ids": position_BT,
        "attention_mask": torch.ones_like(position_BT),
        "use_cache": False,
        "logits_to_keep": 1,
    }
    with eager_attention(model):
        output = model(**inputs, output_attentions=True)
    found = getattr(output, "attentions", None) or ()
    layers = model.config.get_text_config().num_hidden_layers
    if len(found) != layers or any(attention is None for attention in found):
        raise AttentionError(
            f"{type(model).__name__} hands out attention weights for "
            f"{sum(attention is not None for attention in found)} of its {layers} layers: only "
            "models whose every layer is plain attention can be inspected"
        )
    _check_agreement(model, output.logits, model(**inputs).logits)
    return [attention[0] for attention in found]


def _check_agreement(model: PreTrainedModel, eager: torch.Tensor, own: torch.Tensor) -> None:
    """Raise AttentionError where a model computes something else under eager attention.

    Some do: those that pick their attention when they are built take the switch and go on
    with a mask that is meant for the other kernel.
    """
    error = float((eager - own).abs().max()) / max(1.0, float(own.abs().max()))
    tolerance = _TOLERANCE.get(model.dtype, _COARSE_TOLERANCE)
    if not error <= tolerance:
        raise AttentionError(
            f"{type(model).__name__} under eager attention differs from itself under "
            f"{model.config._attn_implementation} attention (error {error:.2g}, at most "
            f"{tolerance:g}): its weights would not be those that it uses; it cannot be inspected"
        )


def _membership(layout: Layout, sites: Sequence[Site]) -> Floats:
    """Which slots belong to each site, and in the last column to verbal tokens: [T, S + 1]."""
    member_TS = np.zeros((len(layout), len(sites) + 1), dtype=np.float32)
    for column, site in enumerate(sites):
        member_TS[site.slot : site.slot + site.m, column] = 1
    member_TS[:, -1] = layout.latent_T == NOT_LATENT
    return member_TS
