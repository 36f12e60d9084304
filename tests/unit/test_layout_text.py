"""Layouts as text: every latent is visible where it stands."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.layout_text import layout_text
from trainable.base_model.loading import BaseModel
from trainable.data import Example, encode
from trainable.delimiters import Vocabulary
from trainable.strategy import InsertionStrategy

COMMA = {"kind": "delimiter", "m": 2}
CASES: list[tuple[dict[str, Any], str]] = [
    ({"triggers": {}}, "44@47=83,47"),
    ({"triggers": {"start": {"kind": "start", "m": 4}, "comma": COMMA},
      "specialization": "by_trigger"}, "▸start·4▸44@47=83▸comma·2▸,47"),
    ({"triggers": {"c": {**COMMA, "side": "after"}}}, "44@47=83,▸c·2▸47"),
    ({"triggers": {"e": {"kind": "every", "k": 4}}, "specialization": "cycle", "groups": 2},
     "44@4▸e·1#0▸7=83▸e·1#1▸,47"),
    ({"triggers": {"v": {"kind": "every", "k": 6}, "end": {"kind": "end", "m": 3}},
      "specialization": "by_trigger"}, "44@47=▸end·3▸▸v·1▸83,47"),
]  # fmt: skip


@pytest.mark.parametrize(("strategy", "text"), CASES)
def test_a_layout_reads_as_it_is_fed(
    strategy: dict[str, Any], text: str, tiny_base: BaseModel
) -> None:
    vocabulary = Vocabulary(tiny_base.tokenizer, tiny_base.model.config.vocab_size)
    row = encode(Example("44@47=", "83,47", closed=False), tiny_base.tokenizer)
    bos = vocabulary.texts[row.ids[0]]
    assert layout_text(InsertionStrategy.from_dict(strategy), vocabulary, row) == bos + text


def test_a_long_row_is_cut(tiny_base: BaseModel) -> None:
    vocabulary = Vocabulary(tiny_base.tokenizer, tiny_base.model.config.vocab_size)
    row = encode(Example("44@47=", "83,47", closed=False), tiny_base.tokenizer)
    assert layout_text(InsertionStrategy(), vocabulary, row, most_tokens=3).endswith("44…")
