"""What has been fed while decoding: the model's own cache, which of its slots are real, the rows.

To `generate()` it is as long as the verbal sequence; to the model, as long as its slots. It can be
handed back to `generate()`, which then goes on as one longer call would have.

Shape suffixes: B rows, N verbal tokens, S slots in the cache.
"""

from __future__ import annotations

import weakref

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

from trainable.layout_rules import LayoutState
from trainable.row_layout import RowLayout


class LatentCache:
    """A batch on its way.

    Args:
        owner: the model that fills it.
        slots: the frozen model's keys and values.
        rows: each row's layout.
        device: where masks live.
    """

    # What `generate()` asks any cache:
    is_compileable = False
    is_croppable = False
    _is_user_defined = True  # it may be wanted afterwards, so never run a step too far and crop

    def __init__(
        self, owner: object, slots: DynamicCache, rows: list[RowLayout], device: torch.device
    ) -> None:
        self._owner = weakref.ref(owner)
        self.slots = slots
        self.rows = rows
        self.ids_BN = torch.zeros(len(rows), 0, dtype=torch.long)
        self.verbal_BN = torch.zeros(len(rows), 0, dtype=torch.bool)
        self.newest_padded: list[bool] = []
        self.mask_BS = torch.zeros(len(rows), 0, dtype=torch.long, device=device)
        self.has_holes = False

    @property
    def states(self) -> list[LayoutState]:
        """How far each row has been laid out."""
        return [row.state for row in self.rows]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Verbal tokens seen, padding included."""
        return self.ids_BN.shape[1]

    def grown_mask(self, new: int) -> torch.Tensor:
        """The attention mask for all tokens seen and `new` more, the one not fed yet first."""
        new_BN = torch.ones(len(self.rows), new, dtype=torch.bool)
        if self.newest_padded:
            new_BN[:, 0] = ~torch.tensor(self.newest_padded)
        return torch.cat([self.verbal_BN, new_BN], dim=1).long()

    def extend(
        self,
        rows: list[RowLayout],
        ids_BN: torch.Tensor,
        verbal_BN: torch.Tensor,
        real_BT: torch.Tensor,
        has_holes: bool,
    ) -> None:
        """Note what is fed next.

        Args:
            rows: each row's layout behind it.
            ids_BN: verbal tokens and padding.
            verbal_BN: which of these are tokens.
            real_BT: which slots of their chunk are real.
            has_holes: whether any is not.
        """
        self.rows = rows
        self.ids_BN = torch.cat([self.ids_BN, ids_BN], dim=1)
        self.verbal_BN = torch.cat([self.verbal_BN, verbal_BN], dim=1)
        self.mask_BS = torch.cat([self.mask_BS, real_BT], dim=1)
        self.has_holes |= has_holes

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Let row i go on from row `beam_idx[i]`."""
        self.slots.reorder_cache(beam_idx.long())  # type: ignore[arg-type]
        self.mask_BS = self.mask_BS[beam_idx.to(self.mask_BS.device)]
        self.ids_BN = self.ids_BN[beam_idx.cpu()]
        self.verbal_BN = self.verbal_BN[beam_idx.cpu()]
        self.rows = [self.rows[row].branch() for row in beam_idx.tolist()]

    def refuse_other(
        self,
        owner: object,
        ids_BN: torch.Tensor,
        new: int | None,
        attention_mask: torch.Tensor | None,
    ) -> None:
        """Raise ValueError unless a call may go on from here.

        Args:
            owner: the model that is called.
            ids_BN: all ids so far, or, where `new` is None, those that have not been fed.
            new: how many of them have not been fed.
            attention_mask: of all tokens so far; None where it is 1 everywhere.
        """
        if self._owner() is not owner:
            raise ValueError(
                "past_key_values was filled by another model with other latents: give the cache "
                "that this one returned"
            )
        if len(ids_BN) != len(self.rows):
            raise ValueError(
                f"past_key_values has {len(self.rows)} rows, this call {len(ids_BN)} (num_beams "
                "and num_return_sequences count): go on with the rows that filled it"
            )
        if new is not None:
            self._refuse_ids(ids_BN, new)
        self._refuse_mask(attention_mask)

    def _refuse_mask(self, mask_BN: torch.Tensor | None) -> None:
        fed = self.get_seq_length()
        if mask_BN is None:
            mask_BN = torch.ones_like(self.ids_BN)
        if mask_BN.shape[1] < fed:  # of the new tokens alone
            return
        differs_BN = mask_BN[:, :fed].bool().cpu() != self.verbal_BN
        if differs_BN.any():
            row, column = differs_BN.nonzero()[0].tolist()
            was = "a token" if self.verbal_BN[row, column] else "padding"
            raise ValueError(
                f"attention_mask is {int(mask_BN[row, column])} at row {row}, column {column}, "
                f"which past_key_values holds as {was}: give 1 for each token, and 0 for padding "
                "in front of a prompt and behind a row that generate() has finished"
            )

    def _refuse_ids(self, ids_BN: torch.Tensor, new: int) -> None:
        fed = self.get_seq_length()
        if new < 1:
            raise ValueError(
                f"past_key_values has seen {fed} tokens of each row, input_ids has "
                f"{ids_BN.shape[1]}: give all ids so far and at least one that is new (a cache "
                "grows with every call; go on from a copy to go on twice)"
            )
        if not torch.equal(ids_BN[:, :fed].cpu(), self.ids_BN):
            raise ValueError(
                "past_key_values was filled with other tokens than input_ids begins with: give "
                "the sequences that came with it (after a beam search it belongs to the beams)"
            )


def whole_slots(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache that keeps every slot, also those behind a sliding window.

    What counts as inside a window is decided by masks, because slots may be holes.
    """
    cache = DynamicCache(config=config)
    cache.layers = [
        DynamicLayer() if sliding else layer
        for layer, sliding in zip(cache.layers, cache.is_sliding, strict=True)
    ]
    return cache
