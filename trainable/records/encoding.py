"""From records to ids, many at a time.

Plain: ids = tokenizer(prompt, with its specials) + tokenizer(completion, without) + EOS.

Chat: the template's rendering of the whole conversation, white space at its very end left
off, tokenised without added specials. The query is the rendering of all turns but the last
with the generation prompt, which must be a prefix of it, token by token. Where the rendering
does not end with a special token, the template's end mark, EOS is appended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from trainable.errors import TaskError
from trainable.records.checking import Message, Record
from trainable.special_ids import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEAM_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class EncodedRecord:
    """A record's ids.

    Args:
        ids: query and response.
        query_length: q; the response is `ids[q:]`.
        prompt: what the model is given, as text: of a chat, what the template wrote.
        seam_differs: whether tokenising prompt and completion as one text gives other ids; None
            where it was not tried.
        unknown: whether a character of it has no token, and stands as the unknown one.
    """

    ids: list[int]
    query_length: int
    prompt: str
    seam_differs: bool | None = None
    unknown: bool = False


class RecordEncoder:
    """Encodes the records of some files with one tokenizer.

    Args:
        tokenizer: the base model's.
        add_special_tokens: whether prompts get the tokenizer's specials: always, but for latents
            that were imported with the specials inside them.

    Raises:
        TaskError: if it has no EOS token to close completions with.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, add_special_tokens: bool = True
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise TaskError(
                "the tokenizer has no EOS token to close completions with: take another "
                "base_model.path, or give its tokenizer an eos_token"
            )
        self._tokenizer = tokenizer
        self._adds_specials = add_special_tokens
        self._eos = int(tokenizer.eos_token_id)
        self._specials = special_ids(tokenizer)
        self._seams_left = SEAM_ROWS
        unknown, used = tokenizer.unk_token_id, (tokenizer.bos_token_id, tokenizer.eos_token_id)
        self._unknown = None if unknown in used else unknown  # some have one id for all three

    def encode(self, records: Sequence[Record]) -> list[EncodedRecord | str]:
        """Encode records of one kind.

        Returns:
            For each, its ids or what is wrong with it.

        Raises:
            TaskError: for chats, if the tokenizer has no chat template.
        """
        if not records:
            return []
        if records[0].messages is not None:
            return self._encode_chats([record.messages or [] for record in records])
        return self._encode_plain(records)

    def _encode_plain(self, records: Sequence[Record]) -> list[EncodedRecord | str]:
        queries = self._ids([record.prompt for record in records], specials=self._adds_specials)
        responses = self._ids([record.completion for record in records])
        joint = self._joint_ids(records)
        encoded: list[EncodedRecord | str] = []
        for record, query, response, whole in zip(records, queries, responses, joint, strict=True):
            if not query:
                encoded.append("prompt is empty, and the tokenizer puts no BOS in front")
            elif not response:
                encoded.append(f"completion has no tokens: {record.completion!r}")
            else:
                differs = None if whole is None else query + response != whole
                ids = [*query, *response, self._eos]
                unknown = self._unknown in ids
                encoded.append(EncodedRecord(ids, len(query), record.prompt, differs, unknown))
        return encoded

    def _joint_ids(self, records: Sequence[Record]) -> list[list[int] | None]:
        """The ids of prompt and completion as one text, for the first rows: it costs as much."""
        tried = records[: self._seams_left]
        self._seams_left -= len(tried)
        texts = [record.prompt + record.completion for record in tried]
        ids = self._ids(texts, specials=self._adds_specials) if texts else []
        return [*ids, *[None] * (len(records) - len(tried))]

    def _encode_chats(self, chats: Sequence[list[Message]]) -> list[EncodedRecord | str]:
        if not self._tokenizer.chat_template:
            raise TaskError(
                "the data holds messages, but the base model's tokenizer has no chat template: "
                "write prompt and completion instead, or take a base_model.path that was trained "
                "on chats"
            )
        rendered = [self._render(chat) for chat in chats]
        texts = [("", "") if isinstance(pair, str) else pair for pair in rendered]
        queries = self._ids([prompt for prompt, _ in texts])
        wholes = self._ids([whole for _, whole in texts])
        return [
            pair if isinstance(pair, str) else self._join(pair[0], query, whole)
            for pair, query, whole in zip(rendered, queries, wholes, strict=True)
        ]

    def _join(self, prompt: str, query: list[int], whole: list[int]) -> EncodedRecord | str:
        if not query or whole[: len(query)] != query:
            return (
                "messages: the chat template's prompt is no prefix of the whole conversation, "
                "token by token: it changes earlier turns, or its last token joins the answer's"
            )
        if whole[-1] not in self._specials:
            whole = [*whole, self._eos]
        if len(whole) - len(query) < 2:
            return "messages: the chat template leaves nothing of the last one's content"
        return EncodedRecord(whole, len(query), prompt, unknown=self._unknown in whole)

    def _render(self, chat: list[Message]) -> tuple[str, str] | str:
        """The prompt and the whole conversation as texts, or why there is none."""
        render: Any = self._tokenizer.apply_chat_template
        try:
            whole = str(render(chat, tokenize=False))
            prompt = str(render(chat[:-1], tokenize=False, add_generation_prompt=True))
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            return f"messages: the chat template refuses them: {error}"
        return prompt, whole.rstrip()

    def _ids(self, texts: Sequence[str], *, specials: bool = False) -> list[list[int]]:
        encoding = self._tokenizer(
            list(texts),
            add_special_tokens=specials,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        ids: list[list[int]] = encoding["input_ids"]
        return ids
