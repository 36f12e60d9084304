"""Records as ids: prompt and completion, and chats through the tokenizer's template."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from trainable.base_model.tokenizer import build_tokenizer
from trainable.data import Example, encode
from trainable.errors import TaskError
from trainable.records.checking import Record
from trainable.records.encoding import EncodedRecord, RecordEncoder

# Qwen's manner: each turn between marks, and a line feed behind the end mark.
MARKED = (
    "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content + '<|end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def record(prompt: str = "", completion: str = "", **fields: Any) -> Record:
    defaults: dict[str, Any] = {"messages": None, "id": None, "distance": None, "file": 0, "row": 1}
    return Record(prompt, completion, **defaults | fields)


def chat(*contents: str) -> Record:
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": c} for role, c in zip(roles, contents, strict=False)]
    return record(messages=messages, completion=contents[-1])


def chatty(template: str) -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})
    tokenizer.chat_template = template
    return tokenizer


def encoded(tokenizer: PreTrainedTokenizerFast, *records: Record) -> list[EncodedRecord]:
    found = RecordEncoder(tokenizer).encode(records)
    assert all(isinstance(one, EncodedRecord) for one in found), found
    return found  # type: ignore[return-value]


def test_plain_records_are_encoded_as_examples_are(tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = [("1+1=", "2"), ("", "a b"), ("x\n", " y ")]
    found = encoded(tokenizer, *(record(*pair) for pair in pairs))
    for one, (prompt, completion) in zip(found, pairs, strict=True):
        expected = encode(Example(prompt, completion), tokenizer)
        assert (one.ids, one.query_length) == (expected.ids.tolist(), expected.query_length)
        assert (one.prompt, one.seam_differs) == (prompt, False)


def merging() -> PreTrainedTokenizerFast:
    """A tokenizer for which `ab` is one token."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    model = BPE({"a": 0, "b": 1, "ab": 2, "</s>": 3}, [("a", "b")])
    specials = {"eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **specials)


def test_a_seam_that_joint_tokenisation_moves_is_noted() -> None:
    moved, kept = encoded(merging(), record("a", "b"), record("b", "a"))
    assert (moved.ids, moved.seam_differs) == ([0, 1, 3], True)
    assert (kept.ids, kept.seam_differs) == ([1, 0, 3], False)


def test_a_completion_without_tokens_is_refused() -> None:
    found = RecordEncoder(merging()).encode([record("a", "xyz")])  # unknown, and no unk_token
    assert found == ["completion has no tokens: 'xyz'"]


def test_a_chat_is_split_behind_the_generation_prompt() -> None:
    tokenizer = chatty(MARKED)
    (one,) = encoded(tokenizer, chat("1+1?", "2", "2+2?", "4"))
    query, response = one.ids[: one.query_length], one.ids[one.query_length :]
    assert tokenizer.decode(response) == "4<|end|>"  # with its end mark, without the line feed
    assert tokenizer.decode(query) == one.prompt
    assert one.prompt.endswith("<|start|>user\n2+2?<|end|>\n<|start|>assistant\n")
    assert query[0] == tokenizer.convert_tokens_to_ids("<|start|>")  # no special of the tokenizer


def test_a_template_without_an_end_mark_gets_eos() -> None:
    tokenizer = chatty(PLAIN)
    (one,) = encoded(tokenizer, chat("1+1?", "2"))
    assert one.prompt == "user: 1+1?\nassistant: "
    assert one.ids[one.query_length :] == [
        tokenizer.convert_tokens_to_ids("2"),
        tokenizer.eos_token_id,
    ]


@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        # Older turns are rendered in another way once there is an answer.
        (
            "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
            "is no prefix of the whole conversation",
        ),
        ("{{ raise_exception('roles must alternate') }}", "refuses them: roles must alternate"),
        ("{{ messages[0].name.first }}", "the chat template refuses them: "),
        ("{% for m in messages[:-1] %}{{ m.content }}{% endfor %}", "is no prefix"),
    ],
)
def test_chats_that_a_template_cannot_render(template: str, wrong: str) -> None:
    (found,) = RecordEncoder(chatty(template)).encode([chat("1+1?", "2")])
    assert isinstance(found, str)
    assert wrong in found


def test_one_bad_chat_spoils_no_other() -> None:
    template = "{% if messages[0].content == 'x' %}{{ raise_exception('no') }}{% endif %}" + MARKED
    found = RecordEncoder(chatty(template)).encode([chat("x", "1"), chat("y", "2")])
    assert isinstance(found[0], str)
    assert isinstance(found[1], EncodedRecord)
    assert found[1].prompt == "<|start|>user\ny<|end|>\n<|start|>assistant\n"


def test_tokenizers_that_cannot_encode_records(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TaskError, match="no chat template: write prompt and completion"):
        RecordEncoder(tokenizer).encode([chat("a", "b")])
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(TaskError, match="no EOS token"):
        RecordEncoder(bare)


def test_equal_prompts_share_a_key_and_others_do_not() -> None:
    assert record("a", "b").prompt_key() == record("a", "c").prompt_key()
    assert record("a", "b").row_key() != record("a", "c").row_key()
    assert record("a", "b").prompt_key() != record("b", "b").prompt_key()
    assert chat("a", "b").prompt_key() == chat("a", "c").prompt_key() != chat("b", "b").prompt_key()


def test_prompts_for_imported_latents_have_no_specials(tokenizer: PreTrainedTokenizerFast) -> None:
    (given,) = RecordEncoder(tokenizer, add_special_tokens=False).encode([record("ab", "c")])
    assert isinstance(given, EncodedRecord)
    expected = tokenizer("abc", add_special_tokens=False)["input_ids"]
    assert given.ids == [*expected, tokenizer.eos_token_id]
    assert (given.query_length, given.seam_differs) == (2, False)
