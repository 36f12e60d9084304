"""Score latents by letting the model run: greedy decoding, compared with the reference.

A search scores by one teacher-forced forward, which is the same for exact match and much
cheaper. This is the slow, plain way, for what has been handed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch

from trainable.data import EncodedRow, EncodedTask, Split, mean_by_distance
from trainable.decoding import LatentLM

ROWS_AT_ONCE = 64


def evaluate_decoding(
    lm: LatentLM, data: EncodedTask, split: Split, rows_per_distance: int
) -> dict[str, float]:
    """Decode each row greedily and score it.

    Args:
        rows_per_distance: at most so many rows of each distance, the first ones.

    Returns:
        Metric name to value, as `Engine.evaluate` names them.
    """
    by_distance: dict[int, list[EncodedRow]] = {}
    for row in data.rows(split):
        by_distance.setdefault(row.distance, []).append(row)
    scores = []
    for rows in by_distance.values():
        chosen = iter(rows[:rows_per_distance])
        while batch := list(islice(chosen, ROWS_AT_ONCE)):
            for row, response in zip(batch, decode(lm, batch), strict=True):
                right_N = response == row.ids[row.query_length :]
                scores.append((row.distance, data.score(row, right_N)))
    return mean_by_distance(scores, split)


def decode(
    lm: LatentLM, rows: Sequence[EncodedRow]
) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The model's own greedy response to each row's query, as long as the reference.

    A response that ends early is filled up with -1, which is no token.
    """
    width = max(row.query_length for row in rows)
    ids_BN = torch.zeros(len(rows), width, dtype=torch.long)
    mask_BN = torch.zeros_like(ids_BN)
    for line, row in enumerate(rows):
        ids_BN[line, width - row.query_length :] = torch.from_numpy(row.ids[: row.query_length])
        mask_BN[line, width - row.query_length :] = 1
    longest = max(len(row.ids) - row.query_length for row in rows)
    output_BN = lm.generate(
        input_ids=ids_BN.to(lm.device),
        attention_mask=mask_BN.to(lm.device),
        max_new_tokens=longest,
        do_sample=False,
    )
    responses = []
    for line, row in enumerate(rows):
        length = len(row.ids) - row.query_length
        response = np.full(length, -1, dtype=np.int64)
        generated = output_BN[line, width:][:length].cpu().numpy()
        response[: len(generated)] = generated
        responses.append(response)
    return responses
