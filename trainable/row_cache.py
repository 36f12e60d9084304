"""Keys and values of rows that come and go, each row's close together from its slot 0 on.

    row 0   a b c d e . . .       written in place, wherever a row has got to: rows may be of
    row 1   a b . . . . . .       any length, a chunk of any width leaves no hole, and a row
    row 2   a b c d . . . .       that is over makes room for the next by moving the last one

Only the first rows are looked at, and of them as many slots as the longest has, so what is
behind costs memory alone.

Shape suffixes: B rows of a step, H heads, T slots of a chunk, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class RowCache:
    """The cache that a model is given, and how its rows are arranged.

    Args:
        config: the model's.

    Attributes:
        cache: for the model.
        rows: how many there is room for.
        slots: how many each may have.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self.cache = DynamicCache(config=config)
        self._layers = [_RowLayer(self) for _ in self.cache.layers]
        self.cache.layers = list(self._layers)
        self.rows = 0
        self.slots = 0
        self.row_B1 = torch.zeros(0, 1, dtype=torch.long)
        self.slot_BT = torch.zeros(0, 0, dtype=torch.long)
        self.begin = 0
        self.seen = 0

    def aim(self, begin: int, slot_BT: torch.Tensor, seen: int) -> None:
        """Say where the next chunk goes.

        Args:
            begin: the first of its rows; the others follow.
            slot_BT: where each of its slots stands in its row.
            seen: how many slots of these rows it looks at, its own included.
        """
        self.begin, self.seen = begin, seen
        self.slot_BT = slot_BT
        self.row_B1 = torch.arange(len(slot_BT), device=slot_BT.device)[:, None]

    def resize(self, rows: int, slots: int) -> None:
        """Make room for so many rows of so many slots; what fits stays."""
        self.rows, self.slots = rows, slots
        for layer in self._layers:
            layer.resize()

    def move(self, sources: Sequence[int], targets: Sequence[int], slots: int) -> None:
        """Put rows into the places of others, up to their first `slots` slots."""
        if sources:
            source_R, target_R = torch.tensor(sources), torch.tensor(targets)
            for layer in self._layers:
                layer.move(source_R, target_R, slots)


class _RowLayer(DynamicLayer):
    """One layer's part, filled in place."""

    def __init__(self, whole: RowCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._whole = whole

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a chunk where `aim` said; returns the keys and values of its rows."""
        if self.keys is None or self.values is None:
            self.keys, self.values = self._empty(key_states), self._empty(value_states)
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        return self._write(self.keys, key_states), self._write(self.values, value_states)

    def get_seq_length(self) -> int:
        """The slots before the chunk, for models that ask."""
        return self._whole.seen - self._whole.slot_BT.shape[1]

    def resize(self) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self._resized(self.keys), self._resized(self.values)

    def move(self, source_R: torch.Tensor, target_R: torch.Tensor, slots: int) -> None:
        for states in (self.keys, self.values):
            if states is not None:
                moved = states[source_R.to(states.device), :, :slots]
                states[target_R.to(states.device), :, :slots] = moved

    def _write(self, states: torch.Tensor, new_BHTD: torch.Tensor) -> torch.Tensor:
        whole = self._whole
        device = states.device  # a model may have its layers on several
        rows = states[whole.begin : whole.begin + len(new_BHTD)]
        rows[whole.row_B1.to(device), :, whole.slot_BT.to(device)] = new_BHTD.transpose(1, 2)
        return rows[:, :, : whole.seen]

    def _empty(self, like_BHTD: torch.Tensor) -> torch.Tensor:
        # Never as found: a masked slot counts for 0 times what it holds, and NaN outdoes 0.
        shape = (self._whole.rows, like_BHTD.shape[1], self._whole.slots, like_BHTD.shape[3])
        return like_BHTD.new_zeros(shape)

    def _resized(self, states: torch.Tensor) -> torch.Tensor:
        empty = self._empty(states)
        rows, slots = min(len(states), len(empty)), min(states.shape[2], empty.shape[2])
        empty[:rows, :, :slots] = states[:rows, :, :slots]
        return empty


def keeps_rows(config: PreTrainedConfig) -> bool:
    """Whether all that a model's layers carry from token to token is plain keys and values."""
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    return bool(kinds) and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
