"""Delimiters: patterns against vocabularies of characters and of merged bytes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from trainable.delimiters import REPLACEMENT, decoded_vocabulary, matching_ids


@pytest.fixture(scope="module")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE whose specials hold a comma, trained so that `,"` and `),` merge."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=290,
        special_tokens=["<,bos,>", "<eos>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(['say ("a"),"b"),\n("é"),"é"),\n'] * 50, trainer)
    specials = {"bos_token": "<,bos,>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials)


def test_characters(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = decoded_vocabulary(tokenizer, len(tokenizer))
    matches = matching_ids(texts, [",", "[,;]", "q{9}"])
    assert np.flatnonzero(matches[","]).tolist() == [tokenizer.convert_tokens_to_ids(",")]
    assert matches["[,;]"].sum() == 2
    assert not matches["q{9}"].any()


def test_a_comma_hides_in_merged_tokens(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = decoded_vocabulary(byte_tokenizer, len(byte_tokenizer))
    matches_V = matching_ids(texts, [","])[","]
    matched = {texts[i] for i in np.flatnonzero(matches_V)}
    assert "," in matched
    assert any(len(text) > 1 for text in matched), matched
    for i, text in enumerate(texts):
        assert bool(matches_V[i]) == ("," in text)


def test_specials_never_match(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    assert byte_tokenizer.decode([byte_tokenizer.bos_token_id]) == "<,bos,>"
    texts = decoded_vocabulary(byte_tokenizer, len(byte_tokenizer))
    matches = matching_ids(texts, [",", ".*", "^$"])
    for matches_V in matches.values():
        assert not matches_V[byte_tokenizer.all_special_ids].any()


def test_pieces_of_characters_never_match(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = [i for i in range(len(byte_tokenizer)) if REPLACEMENT in byte_tokenizer.decode([i])]
    assert len(pieces) > 50  # lone bytes of the upper half
    texts = decoded_vocabulary(byte_tokenizer, len(byte_tokenizer))
    for pattern, matches_V in matching_ids(texts, [".", REPLACEMENT, "[^a]"]).items():
        assert not matches_V[pieces].any(), pattern


def test_a_padded_embedding_table_has_ids_without_text(tokenizer: PreTrainedTokenizerFast) -> None:
    size = len(tokenizer) + 9
    texts = decoded_vocabulary(tokenizer, size)
    assert len(texts) == size
    assert texts[-9:] == [""] * 9
    assert matching_ids(texts, [".*"])[".*"].shape == (size,)
    assert not matching_ids(texts, [".*"])[".*"][-9:].any()


def test_a_smaller_embedding_table_cuts_the_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(decoded_vocabulary(tokenizer, 7)) == 7


def test_a_pattern_that_matches_most_of_the_vocabulary_is_a_warning(
    tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    texts = decoded_vocabulary(tokenizer, len(tokenizer))
    with caplog.at_level(logging.WARNING, logger="trainable.delimiters"):
        matching_ids(texts, [","])
        assert not caplog.records
        matching_ids(texts, ["."])
    assert "over half" in caplog.text
