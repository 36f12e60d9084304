"""What the bundled model reads: every ingredient of the tasks, and none of the tasks."""

from __future__ import annotations

import re

import numpy as np
import pytest

from trainable.base_model import corpus
from trainable.base_model.pretrain import STAGES
from trainable.base_model.tokenizer import MAX_TOKENS, build_tokenizer
from trainable.tasks import build_task

DOCUMENTS = 200


def drawn(family: str) -> list[str]:
    rng = np.random.default_rng(0)
    draw = {
        "rules": corpus.rule_document,
        "lists": corpus.list_document,
        "sums": corpus.sum_document,
        "copies": corpus.copy_document,
    }[family]
    return [draw(rng, int(rng.integers(3, 31))) for _ in range(DOCUMENTS)]


def test_batches_hold_one_family_and_about_the_tokens_asked_for() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        documents = corpus.draw_batch(rng, 4096, STAGES[-1].shares)
        assert sum(len(text) for text, _ in documents) < 4096 + MAX_TOKENS
        assert len({closed for _, closed in documents}) == 1


@pytest.mark.parametrize("family", corpus.FAMILIES)
def test_every_character_is_known_and_every_document_fits(family: str) -> None:
    tokenizer = build_tokenizer()
    for text in drawn(family):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(ids) < MAX_TOKENS


def test_shares_add_up() -> None:
    for stage in STAGES:
        assert set(stage.shares) <= set(corpus.FAMILIES)
        assert sum(stage.shares.values()) == pytest.approx(1.0)
    assert set(STAGES[-1].shares) == set(corpus.FAMILIES)


def test_look_ups_are_right() -> None:
    for text in drawn("lists"):
        separator = next(mark for mark in ";\n," if mark in text)
        values: dict[str, str] = {}
        for line in text.split(separator):
            name, _, value = line.partition("=")
            if line.startswith("?"):
                assert [values[asked] for asked in name[1:].split(" ")] == value.split(" ")
            else:
                assert name not in values
                values[name] = value


def test_sums_are_right() -> None:
    for text in drawn("sums"):
        for x, y, z in re.findall(r"(\d)\+(\d)=(\d+)", text):
            assert int(x) + int(y) == int(z)
            assert len(z) == 2


def test_copies_are_counted() -> None:
    for text in drawn("copies"):
        for line in text.split("\n"):
            count, word, copies = re.fullmatch(r"(\d+)\*([^:]+):(.*)", line).groups()  # type: ignore[union-attr]
            assert copies.split(",") == [word] * int(count)


def test_generations_rule_is_never_read() -> None:
    assert corpus.HELD_OUT_RULE not in corpus.RULES
    assert not any(f"[{corpus.HELD_OUT_RULE}]" in text for text in drawn("rules"))


def test_summation_is_never_read() -> None:
    # No name is added to another, and nothing that was looked up is added.
    assert not any("+" in text for text in drawn("lists"))
    assert not any(re.search(r"[a-z]", text) for text in drawn("sums"))


def test_repetition_is_never_read() -> None:
    shape = re.compile(r" x\d+:")
    assert all(
        shape.search(e.prompt) for e in build_task({"kind": "repetition"}, 0).examples("train")
    )
    for family in corpus.FAMILIES:
        assert not any(shape.search(text) for text in drawn(family))
