"""What cannot carry latents is refused from its configuration alone, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import (
    BartConfig,
    BloomConfig,
    CpmAntConfig,
    Gemma4TextConfig,
    LlavaConfig,
    MambaConfig,
    MptConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RwkvConfig,
    WhisperConfig,
)

from trainable.base_model.loading import check_base
from trainable.errors import BaseModelError

COUNTS_BY_SLOT = ["takes no position_ids", "by slot", "would move the tokens", "e.g. a Llama"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (BloomConfig(), ["BloomForCausalLM", *COUNTS_BY_SLOT]),
        (MptConfig(), ["MptForCausalLM", *COUNTS_BY_SLOT]),
        (MambaConfig(), ["MambaForCausalLM", *COUNTS_BY_SLOT]),
        (RwkvConfig(), ["RwkvForCausalLM", *COUNTS_BY_SLOT]),
        (BartConfig(is_encoder_decoder=False, is_decoder=True), COUNTS_BY_SLOT),
        (CpmAntConfig(), ["CpmAntForCausalLM", "takes no inputs_embeds", "have no token id"]),
        (WhisperConfig(), ["whisper model", "no causal", "decoder-only"]),
        (LlavaConfig(), ["llava model", "no causal", "decoder-only"]),
        (
            Gemma4TextConfig(hidden_size_per_layer_input=8),
            ["gemma4_text model", "at each layer", "hidden_size_per_layer_input", "has no id"],
        ),
    ],
    ids=lambda each: each.model_type if isinstance(each, PreTrainedConfig) else "",
)
def test_a_folder_is_refused_before_its_weights(
    config: PreTrainedConfig,
    words: list[str],
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BaseModelError) as caught:
        check_base(str(tmp_path))
    message = str(caught.value)
    for word in [f"base_model.path={str(tmp_path)!r}", *words]:
        assert word in message
    assert "\n" not in message


@pytest.mark.parametrize("fields", [{"hidden_size_per_layer_input": 0}])
def test_gemma4_without_embeddings_per_layer_passes(
    fields: dict[str, Any], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    Gemma4TextConfig(**fields).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    check_base(str(tmp_path))
