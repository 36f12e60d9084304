"""What the bundled model reads: every ingredient of the tasks, and none of the tasks."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from trainable.base_model import corpus
from trainable.base_model.growing import add_heads
from trainable.base_model.pretrain import IGNORED, STAGES, build_model, encode_batch
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
        "echoes": corpus.echo_document,
    }[family]
    return [draw(rng, int(rng.integers(3, 31))).text for _ in range(DOCUMENTS)]


@pytest.mark.parametrize("family", corpus.FAMILIES)
def test_batches_hold_one_family_and_fill_a_rectangle(family: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        documents, width = corpus.draw_batch(rng, 4096, {family: 1.0})
        assert len(documents) * width <= 4096
        assert max(len(document.text) for document in documents) < width
        assert {document.closed for document in documents} == {family not in ("rules", "echoes")}


def test_what_is_given_is_not_to_be_predicted() -> None:
    tokenizer = build_tokenizer()
    document = corpus.Document("a=3;?a=3", given=len("a=3"))
    ids_BT, labels_BT = encode_batch(tokenizer, [document], width=12)
    read = len("a=3") + 1  # BOS
    assert set(labels_BT[0, :read].tolist()) == {IGNORED}
    assert labels_BT[0, read:10].tolist() == ids_BT[0, read:10].tolist()
    assert ids_BT[0, 9] == tokenizer.eos_token_id
    assert set(labels_BT[0, 10:].tolist()) == {IGNORED}


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
    assert {family for stage in STAGES for family in stage.shares} == set(corpus.FAMILIES)


def test_look_ups_are_right() -> None:
    for text in drawn("lists"):
        separator = next(mark for mark in ";\n," if mark in text)
        values: dict[str, str] = {}
        for line in text.split(separator):
            name, _, value = line.partition("=")
            if line.startswith("?"):
                assert [values[asked] for asked in name[1:].split(" ")] == value.split(" ")
            elif expression := re.fullmatch(r"(.)([-*+])(.)=(\d)([-*+])(\d)=(\d\d)", line):
                left, sign, right, x, again, y, result = expression.groups()
                assert (values.get(left, left), again, values.get(right, right)) == (x, sign, y)
                found = {"*": int(x) * int(y), "-": abs(int(x) - int(y)), "+": int(x) + int(y)}
                assert int(result) == found[sign]
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


def test_echoes_repeat_what_is_given() -> None:
    rng = np.random.default_rng(0)
    for characters in (6, 20, 48):
        document = corpus.echo_document(rng, characters)
        assert document.given == characters
        assert document.text[characters:] == document.text[:-characters]


def test_added_heads_change_no_logits_and_look_back() -> None:
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = build_model(tokenizer).eval()
    ids_BT = torch.randint(4, len(tokenizer), (2, 40))
    grown = add_heads(model, seed=0).eval()
    with torch.no_grad():
        assert torch.equal(model(ids_BT).logits, grown(ids_BT).logits)
        grown.set_attn_implementation("eager")
        attention_HTT = grown(ids_BT, output_attentions=True).attentions[0][0]
    for head, distance in ((4, 1), (5, 2), (6, 3)):
        looked = torch.diagonal(attention_HTT[head], -distance)[10:]
        assert looked.mean() > 0.9


def test_generations_rule_is_never_read() -> None:
    assert corpus.HELD_OUT_RULE not in corpus.RULES
    assert not any(f"[{corpus.HELD_OUT_RULE}]" in text for text in drawn("rules"))


def test_summation_is_never_read() -> None:
    # A name is added to a digit, and two are multiplied or subtracted; none is added to another.
    lists = "\n".join(drawn("lists"))
    assert re.search(r"[A-Za-z]\+\d", lists)
    assert re.search(r"[A-Za-z]-[A-Za-z]", lists)
    assert not re.search(r"[A-Za-z]\+[A-Za-z]", lists)
    assert not any(re.search(r"[a-z]", text) for text in drawn("sums"))


def test_repetition_is_never_read() -> None:
    shape = re.compile(r" x\d+:")
    assert all(
        shape.search(e.prompt) for e in build_task({"kind": "repetition"}, 0).examples("train")
    )
    for family in corpus.FAMILIES:
        assert not any(shape.search(text) for text in drawn(family))
