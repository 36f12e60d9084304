"""Load a frozen base model, or say why it cannot carry latent tokens.

    configuration ─► tokenizer ─► weights ─► device ─► measured: what it makes of inputs_embeds

Each step refuses what it can, the cheapest first; `check_base` stops before the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trainable.attention_masks import refuse_attention
from trainable.base_model.inputs import InputSpace, measure_inputs
from trainable.base_model.options import LoadOptions, spreading
from trainable.base_model.probe import dtype_of, quantization_of, take_probe
from trainable.base_model.refusals import class_of, refuse_config, refuse_forward, refuse_kernel
from trainable.base_model.source import ModelSource, first_line
from trainable.errors import BaseModelError
from trainable.fingerprint import model_fingerprint, tokenizer_hash


@dataclass(frozen=True)
class BaseModel:
    """A frozen model in memory and what identifies it.

    Args:
        model: in eval mode, no parameter requires a gradient.
        path: as the user named it ("bundled", a folder, a model id).
        revision: the commit that was loaded, where the source has commits.
        space: which space latents live in.
        own_code: whether code from the model's repository ran.
        probe: what the model answers to a fixed sequence; None where nobody asked.
        device_map: the word by which it was spread over devices; None where it was not, or where
            devices were named, which mean something on one machine alone.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    path: str
    revision: str | None
    fingerprint: str
    tokenizer_hash: str
    space: InputSpace = field(default_factory=InputSpace)
    own_code: bool = False
    probe: Mapping[str, Any] | None = None
    device_map: str | None = None

    @property
    def embeddings(self) -> torch.nn.Module:
        """The input embeddings; what they return is the space that latents live in."""
        return self.model.get_input_embeddings()

    def describe(self) -> dict[str, Any]:
        """Plain data that identifies the model in an artifact.

        Latents are rows of inputs_embeds; the first block sees them times `block_input_scale`.
        """
        return {
            "path": self.path,
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "tokenizer_hash": self.tokenizer_hash,
            "model_type": self.model.config.model_type,
            "hidden_size": self.model.config.get_text_config().hidden_size,
            "dtype": dtype_of(self.model),
            "quantization": quantization_of(self.model),
            "attn_implementation": self.model.config._attn_implementation,
            "device_map": self.device_map,
            "trust_remote_code": self.own_code,
            "latent_space": "inputs_embeds",
            "embedding_scale": self.space.embedding_scale,
            "block_input_scale": self.space.block_input_scale,
            "probe": None if self.probe is None else dict(self.probe),
        }


def check_base(path: str, **options: Any) -> None:
    """Refuse, before any weight is read, what cannot be a base model.

    Args:
        options: the fields of `LoadOptions`.

    Raises:
        BaseModelError: if there is no such model, it is no causal language model, its forward
            cannot take latents, or it has no tokenizer.
    """
    _read_parts(ModelSource(path, LoadOptions(**options)))


def load_base(path: str, **options: Any) -> BaseModel:
    """Load and freeze a causal language model.

    Args:
        path: "bundled", a folder written by `save_pretrained`, or a model id.
        options: the fields of `LoadOptions`.

    Raises:
        BaseModelError: as `check_base`, if the weights are missing or unreadable, if an option's
            packages are not installed, or if the model does not do with latents what it shall.
    """
    chosen = LoadOptions(**options)
    chosen.check_extras()
    source = ModelSource(path, chosen)
    tokenizer = _read_parts(source)
    model = _load_weights(source)
    refuse_forward(path, type(model))
    _check_vocabulary(path, model, tokenizer)
    refuse_attention(model)
    model.eval().requires_grad_(False)
    return BaseModel(
        model=model,
        tokenizer=tokenizer,
        path=path,
        revision=source.revision,
        fingerprint=model_fingerprint(source.name, source.revision, own_code=source.own_code),
        tokenizer_hash=tokenizer_hash(tokenizer),
        space=measure_inputs(model),
        own_code=source.own_code,
        probe=take_probe(model),
        device_map=spreading(chosen.device_map),
    )


def _read_parts(source: ModelSource) -> PreTrainedTokenizerBase:
    """Read configuration and tokenizer, and refuse what they tell."""
    own_code = source.own_code  # first: code that nothing pins must not run
    config = source.config()
    refuse_config(source.path, config, own_code)
    model_class = None if own_code else class_of(config)
    if model_class is not None:
        refuse_forward(source.path, model_class)
        refuse_kernel(source.path, model_class, source.options.attn_implementation)
    return source.tokenizer()


def _load_weights(source: ModelSource) -> PreTrainedModel:
    """Load the model onto its device."""
    options, placing = source.options, _placing(source.options)
    loaded: Any  # with output_loading_info: the model, and what was found of it
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            source.name,
            dtype=getattr(torch, options.dtype),
            attn_implementation=options.attn_implementation,
            output_loading_info=True,
            **placing,
            **source.reading,
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        _refuse_kernel_of_own_code(source, error)
        raise BaseModelError(
            f"base_model.path={source.path!r} cannot be loaded: {first_line(error)} Give a "
            "folder written by save_pretrained, or download the model again"
        ) from error
    model: PreTrainedModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:  # transformers fills them with noise and goes on
        raise BaseModelError(
            f"base_model.path={source.path!r} lacks the weights {', '.join(missing)}: give the "
            "whole model as save_pretrained writes it"
        )
    _keep_gradients(model)
    # Quantised weights cannot be moved; transformers has put those of a quantised folder itself.
    if "device_map" not in placing and quantization_of(model) is None:
        model.to(torch.device(_device(options)))  # type: ignore[arg-type]
    _refuse_offloading(model, options)
    return model


def _refuse_kernel_of_own_code(source: ModelSource, error: Exception) -> None:
    """Say what to write where a class that is known only once it runs has no such kernel."""
    if source.own_code and "does not support an attention implementation" in str(error):
        kernel = source.options.attn_implementation
        raise BaseModelError(
            f"base_model.attn_implementation={kernel!r}: the code of base_model.path="
            f"{source.path!r} has no {kernel} attention: write base_model.attn_implementation: "
            "eager"
        ) from error


def _placing(options: LoadOptions) -> dict[str, Any]:
    """Arguments of `from_pretrained` that say where weights go and in how many bits."""
    placing: dict[str, Any] = {}
    if options.device_map is not None:
        _refuse_absent_gpus(options.device_map)
        placing["device_map"] = options.device_map
    if options.quantization is not None:
        placing.setdefault("device_map", {"": _device(options)})  # they cannot be moved later
        placing["quantization_config"] = _quantization_config(options)
    return placing


def _refuse_absent_gpus(device_map: str | Mapping[str, str | int]) -> None:
    """Raise BaseModelError if a device map names a GPU that torch does not see."""
    places = [device_map] if isinstance(device_map, str) else device_map.values()
    count = torch.cuda.device_count()
    for place in places:
        kind, _, index = (f"cuda:{place}" if isinstance(place, int) else place).partition(":")
        if kind == "cuda" and int(index or 0) >= count:
            raise BaseModelError(
                f"base_model.device_map={device_map!r} names the device {place!r}, but torch sees "
                f"{count} GPUs here: name another device, or write auto"
            )


def _device(options: LoadOptions) -> str:
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise BaseModelError(
            "base_model.device='cuda', but torch sees no GPU here: use `auto` or `cpu`, or install "
            "a torch with CUDA"
        )
    return device


def _quantization_config(options: LoadOptions) -> BitsAndBytesConfig:
    if options.quantization == "bitsandbytes-8bit":
        # It says at each product of each forward that it computes in float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, options.dtype),
    )


def _keep_gradients(model: PreTrainedModel) -> None:
    """Keep 4-bit weights out of a layout that some CPUs are quick with and that has no backward.

    bitsandbytes changes over to it at the first forward without gradients, for good, and
    gradients then end there without an error.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _refuse_offloading(model: PreTrainedModel, options: LoadOptions) -> None:
    """Raise BaseModelError if parts of the model lie where every step would fetch them from."""
    away = [name for name, weight in model.named_parameters() if weight.device.type == "meta"]
    if away:
        raise BaseModelError(
            f"base_model.device_map={options.device_map!r} leaves {len(away)} weights off the "
            f"devices that compute ({away[0]}, …): every training step would fetch them again; "
            "take more GPUs, a smaller dtype, or base_model.quantization"
        )


def _check_vocabulary(
    path: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = next(model.get_input_embeddings().parameters()).shape[0]
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise BaseModelError(
            f"base_model.path={path!r}: its tokenizer has ids up to {highest}, but the model only "
            f"{rows} embeddings: give the tokenizer that belongs to the model"
        )
