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
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from trainable.layout_rules import Bools, LayoutRules
from trainable.special_ids import special_ids
from trainable.strategy import InsertionStrategy

logger = logging.getLogger(__name__)

REPLACEMENT = "\ufffd"


def decoded_vocabulary(tokenizer: PreTrainedTokenizerBase, size: int) -> list[str]:
    """The text of each id below `size`; empty for specials, unknown ids and character pieces."""
    specials = special_ids(tokenizer)
    known = min(size, len(tokenizer))
    texts = [
        "" if i in specials else str(tokenizer.decode([i], clean_up_tokenization_spaces=False))
        for i in range(known)
    ]
    return ["" if REPLACEMENT in text else text for text in texts] + [""] * (size - known)


def matching_ids(texts: list[str], patterns: Iterable[str]) -> dict[str, Bools]:
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


class Vocabulary:
    """A base model's vocabulary, and the patterns that have been resolved against it.

    Args:
        tokenizer: the base model's.
        size: V, the rows of its embeddings.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
        self._tokenizer = tokenizer
        self._size = size
        self._matches: dict[str, Bools] = {}

    @cached_property
    def texts(self) -> list[str]:
        """The text of each id; see `decoded_vocabulary`."""
        return decoded_vocabulary(self._tokenizer, self._size)

    def matches(self, pattern: str) -> Bools:
        """[V], the ids that a pattern matches."""
        if pattern not in self._matches:
            self._matches |= matching_ids(self.texts, [pattern])
        return self._matches[pattern]

    def rules(self, strategy: InsertionStrategy) -> LayoutRules:
        """A strategy, resolved."""
        patterns = {t.pattern for t in strategy.triggers.values() if t.pattern is not None}
        matches = {pattern: self.matches(pattern) for pattern in patterns}
        return LayoutRules.build(strategy, matches, self._tokenizer.bos_token_id)
