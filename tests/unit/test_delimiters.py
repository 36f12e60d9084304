"""Delimiters: patterns against vocabularies of characters and of merged bytes."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.pre_tokenizers import ByteLevel, Metaspace, WhitespaceSplit
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from trainable.base_model.tokenizer import build_tokenizer
from trainable.delimiters import REPLACEMENT, decoded_vocabulary, matching_ids
from trainable.latents import init_latents
from trainable.trial import InitConfig


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


CHAT_MARKS = ("<|start_header_id|>", "<|reserved_special_token_0|>", "<|eot,id|>")


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """The character tokenizer with marks as chat models add them: special by their flag alone."""
    folder = tmp_path_factory.mktemp("chat")
    build_tokenizer().save_pretrained(folder)
    rules = json.loads((folder / "tokenizer.json").read_text())
    first = len(build_tokenizer())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    rules["added_tokens"] += [
        {"id": first + i, "content": mark, "special": True} | flags
        for i, mark in enumerate(CHAT_MARKS)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    return AutoTokenizer.from_pretrained(folder)


def test_a_chats_marks_are_specials(chat_tokenizer: PreTrainedTokenizerBase) -> None:
    vocabulary = chat_tokenizer.get_vocab()
    marks = [vocabulary[mark] for mark in CHAT_MARKS]
    assert not set(marks) & set(chat_tokenizer.all_special_ids)  # else this would test nothing
    texts = decoded_vocabulary(chat_tokenizer, len(chat_tokenizer))
    assert [texts[i] for i in marks] == [""] * len(CHAT_MARKS)
    for pattern, matches_V in matching_ids(texts, [",", "_", "<"]).items():
        assert not matches_V[marks].any(), pattern


def test_a_chats_marks_start_no_latents(chat_tokenizer: PreTrainedTokenizerBase) -> None:
    table = torch.nn.Embedding(len(chat_tokenizer), 1)
    table.weight.data = torch.arange(float(len(chat_tokenizer)))[:, None]
    drawn_L1 = init_latents(InitConfig(kind="vocab"), 2000, 0, table, chat_tokenizer)
    drawn = set(drawn_L1.flatten().int().tolist())
    assert len(drawn) > 90
    vocabulary = chat_tokenizer.get_vocab()
    assert not drawn & {vocabulary[mark] for mark in CHAT_MARKS}


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


def texts_that_match(tokenizer: PreTrainedTokenizerFast, pattern: str) -> set[str]:
    """The vocabulary's own pieces whose ids match."""
    texts = decoded_vocabulary(tokenizer, len(tokenizer))
    found = np.flatnonzero(matching_ids(texts, [pattern])[pattern])
    return set(tokenizer.convert_ids_to_tokens(found.tolist()))


@pytest.fixture(scope="module")
def unigram_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2's and T5's: spaces are pieces, and a word's first piece carries its space."""
    pieces = ["<unk>", "▁", "a", "b", ",", "▁,", "▁a,", "),", "▁,b", "(", ")", ";"]
    model = Unigram([(piece, -1.0) for piece in pieces], unk_id=0)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = Metaspace()
    tokenizer.decoder = MetaspaceDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{"unk_token": "<unk>"})


@pytest.fixture(scope="module")
def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """As BERT's: pieces inside a word carry ##."""
    pieces = ["[UNK]", "a", "b", ",", "##,", "##,b", "##b", "(", "a,", ";", "##;"]
    unknown = {"unk_token": "[UNK]"}
    tokenizer = Tokenizer(WordPiece({piece: i for i, piece in enumerate(pieces)}, **unknown))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.decoder = WordPieceDecoder(cleanup=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **unknown)


def test_byte_level_bpe(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    matched = texts_that_match(byte_tokenizer, ",")
    assert "," in matched
    assert any("Ċ" in piece for piece in matched), matched  # a comma and the line's end in one id
    assert texts_that_match(byte_tokenizer, "^,$") == {","}
    assert texts_that_match(byte_tokenizer, r",\n$") <= matched
    assert all(piece.endswith(",Ċ") for piece in texts_that_match(byte_tokenizer, r",\n$"))


def test_unigram(unigram_tokenizer: PreTrainedTokenizerFast) -> None:
    assert texts_that_match(unigram_tokenizer, ",") == {",", "▁,", "▁a,", "),", "▁,b"}
    assert texts_that_match(unigram_tokenizer, "^,$") == {",", "▁,"}
    assert texts_that_match(unigram_tokenizer, "^ ") == set()  # the decoder drops that space


def test_wordpiece(wordpiece_tokenizer: PreTrainedTokenizerFast) -> None:
    assert texts_that_match(wordpiece_tokenizer, ",") == {",", "##,", "##,b", "a,"}
    assert texts_that_match(wordpiece_tokenizer, "^(##)?,$") == {",", "##,"}


@pytest.mark.parametrize("name", ["byte_tokenizer", "unigram_tokenizer", "wordpiece_tokenizer"])
def test_what_matches_is_what_a_text_is_tokenised_into(
    name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: PreTrainedTokenizerFast = request.getfixturevalue(name)
    texts = decoded_vocabulary(tokenizer, len(tokenizer))
    matches_V = matching_ids(texts, [","])[","]
    for text in ("a,b", "a ,b", "b , a", "(a),b"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        known = [i for i in ids if i != tokenizer.unk_token_id]
        pieces = tokenizer.convert_ids_to_tokens(known)
        assert [bool(matches_V[i]) for i in known] == ["," in piece for piece in pieces]
