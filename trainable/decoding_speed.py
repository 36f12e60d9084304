"""What decoding with latents costs in time.

    cost/ms_per_token    milliseconds per generated verbal token, greedily, one prompt at a time

The prompt and all latents count, as a user waits for them too. Answers have a fixed length, so
that no strategy seems fast or slow by what it writes. It is a time: it belongs to the machine,
and another measurement differs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from trainable.data import EncodedRow
from trainable.decoding import LatentLM

_ROWS = 3
_TOKENS = 16  # or as many as the reference has, which is sure to fit into the context


def ms_per_token(lm: LatentLM, rows: Sequence[EncodedRow]) -> float | None:
    """Time the decoding of a few rows: the median in milliseconds per verbal token.

    Args:
        rows: whose queries are answered: the first few that have one.

    Returns:
        None where no row has a query to begin with.
    """
    few = [row for row in rows if row.query_length][:_ROWS]
    if not few:
        return None
    _generate_ms(lm, few[0])  # the first call of all is slower
    return statistics.median(_generate_ms(lm, row) for row in few)


def _generate_ms(lm: LatentLM, row: EncodedRow) -> float:
    tokens = min(_TOKENS, len(row.ids) - row.query_length)
    device = lm.device
    ids_BN = torch.from_numpy(row.ids[: row.query_length]).unsqueeze(0).to(device)
    begin = _now(device)
    lm.generate(
        input_ids=ids_BN,
        attention_mask=torch.ones_like(ids_BN),
        do_sample=False,
        num_beams=1,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
    )
    return 1000 * (_now(device) - begin) / tokens


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
