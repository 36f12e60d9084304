"""Which ids of a vocabulary stand for no text.

A chat tokenizer names a few of its specials (BOS, EOS, padding) and adds hundreds more, such
as `<|start_header_id|>`, that only a flag tells from words that were added later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a driver that only checks a task's rows needs no transformers
    from transformers import PreTrainedTokenizerBase


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that stand for no text: BOS, EOS, a chat's end mark and the like."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset(added | set(tokenizer.all_special_ids))
