r"""Which ids of a vocabulary a delimiter pattern matches.

The rule: an id matches where `re.search(pattern, text)` finds something in the id's own
text. Its text is what the tokenizer decodes that single id to, with nothing tidied up.

    tokenizer       ids that hold a comma        their texts
    byte-level BPE  `,`  `Ġ,`  `"),`  `,Ċ`       `,`  ` ,`  `"),`  `,\n`     all match `,`
    Unigram         `,`  `▁,`                    `,`  `,`  (the decoder drops a leading space)
    WordPiece       `,`  `##,`                   `,`  `##,`

So `,` matches every id that holds a comma, `^,$` those that are nothing else, and an id
with two commas makes one site. Special ids never match, nor do ids whose text holds U+FFFD
(pieces of a character). `latentune plan` shows what a pattern matches.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

REPLACEMENT = "\ufffd"


def decoded_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """The text of each id below `size`; empty for specials, unknown ids and character pieces."""
    specials = set(tokenizer.all_special_ids)
    known = min(size, len(tokenizer))
    texts = [
        "" if i in specials else str(tokenizer.decode([i], clean_up_tokenization_spaces=False))
        for i in range(known)
    ]
    return ["" if REPLACEMENT in text else text for text in texts] + [""] * (size - known)


def matching_ids(texts: list[str], patterns: Iterable[str]) -> dict[str, npt.NDArray[np.bool_]]:
    """Resolve patterns against a vocabulary.

    Args:
        texts: from `decoded_vocabulary`, [V]; an empty text never matches.
        patterns: regular expressions.

    Returns:
        Pattern to [V] booleans.
    """
    matches = {}
    for pattern in patterns:
        search = re.compile(pattern).search
        matches_V = np.array([bool(text) and search(text) is not None for text in texts])
        if matches_V.sum() * 2 > len(texts):
            logger.warning("the delimiter %r matches over half of the vocabulary", pattern)
        matches[pattern] = matches_V
    return matches
