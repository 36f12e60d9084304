"""The bundled model's tokenizer: one token per character.

    "44@47=83,"  ->  <s> 4 4 @ 4 7 = 8 3 ,

A character vocabulary keeps the model tiny and makes every example readable: what
the model sees is what the page shows. Unknown characters become `<unk>`.
"""

from __future__ import annotations

import string

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
CHARACTERS = string.digits + string.ascii_letters + "@#&%~^$!+-*/=,;:.?|<>[](){}\"' \n"
MAX_TOKENS = 512


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: `<s>` in front of every text, nothing behind it."""
    vocabulary = {piece: index for index, piece in enumerate((*SPECIALS, *CHARACTERS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    # Each match is a piece of its own; the default "." would skip newlines.
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = Fuse()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )
