"""What rows of a batch feed at once: pieces of unequal width as one rectangle.

    row 0    . . 7        each piece stands on the right, so that the logits of the
    row 1    u u 9        last column are those of every row's newest slot;
    row 2    . 4 u        `.` is nothing

Shape suffixes: B rows, T slots of a chunk, D width, L latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import nn

from trainable.layout import NOT_LATENT
from trainable.layout_rules import Ints
from trainable.row_layout import Piece

IDS, LATENT, POSITION, REAL = range(4)  # planes of a table


def chunk_table(rows: Sequence[Sequence[int]], pieces: Sequence[Piece]) -> Ints:
    """Align pieces on the right.

    Args:
        rows: the verbal tokens that each piece holds.
        pieces: with the latents among them.

    Returns:
        [4, B, T]: ids, latents, position ids, and 1 where there is a slot. One array, so that
        there is one way to the device.
    """
    width_B = np.fromiter(map(len, pieces), np.int64, len(pieces))
    width = max(1, int(width_B.max()))  # all rows may be over
    is_real_BT = np.arange(width) >= width - width_B[:, None]
    table_4BT = np.zeros((4, len(pieces), width), dtype=np.int64)
    table_4BT[LATENT] = NOT_LATENT
    table_4BT[LATENT][is_real_BT] = np.concatenate([piece.latent_T for piece in pieces])
    table_4BT[POSITION][is_real_BT] = np.concatenate([piece.position_T for piece in pieces])
    table_4BT[REAL] = is_real_BT
    is_token_BT = is_real_BT & (table_4BT[LATENT] == NOT_LATENT)
    table_4BT[IDS][is_token_BT] = np.fromiter(chain.from_iterable(rows), np.int64)
    return table_4BT


def embed_chunk(
    table_4BT: torch.Tensor, embeddings: nn.Module, latents_LD: torch.Tensor | None
) -> torch.Tensor:
    """The input embeddings of a table, [B, T, D].

    Args:
        table_4BT: on the model's device.
        latents_LD: what `LATENT` counts; None where no slot is one.
    """
    embeds_BTD: torch.Tensor = embeddings(table_4BT[IDS])
    if latents_LD is None:
        return embeds_BTD
    latent_BT = table_4BT[LATENT]
    spliced_BTD = latents_LD[latent_BT.clamp(min=0)].to(embeds_BTD.dtype)
    return torch.where((latent_BT != NOT_LATENT)[..., None], spliced_BTD, embeds_BTD)
