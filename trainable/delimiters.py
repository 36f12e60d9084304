r"""Which ids of a vocabulary a delimiter pattern matches.

The pattern is searched in the decoded text of each single id, once. With byte-pair
vocabularies a comma hides in ids such as `",\n"` or `"),"`; all of them match `,`.
Special ids never match, nor do ids whose text holds U+FFFD (pieces of a character).
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
    texts = ["" if i in specials else str(tokenizer.decode([i])) for i in range(known)]
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
