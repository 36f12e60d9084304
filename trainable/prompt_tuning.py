"""Prompt tuning as PEFT does it, and latents at the start: one turned into the other.

    PEFT:  [v_0 v_1 … v_m] 4 4 @ 4 7 =        virtual tokens in front of everything
    ours:  BOS [u_1 … u_m] 4 4 @ 4 7 =        latents behind BOS, position rule `own`

The two give the same logits where v_0 is BOS's embedding and the prompt is tokenised without
specials, so that BOS does not come twice. A tokenizer that adds no BOS needs no v_0. An adapter
whose v_0 is not BOS's embedding becomes latents in front of everything: exact for prompts
without specials, and artifact and card say so.

Shape suffixes: V virtual tokens, L latents, D width.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase

from trainable.artifact import Artifact, describe_strategy
from trainable.base_model.loading import BaseModel
from trainable.base_model.options import is_model_id
from trainable.base_model.source import source_of
from trainable.errors import ArtifactError, BaseModelError, StrategyError
from trainable.peft_format import Adapter, adapter_fields
from trainable.strategy import InsertionStrategy, PositionRule
from trainable.trial import TrialConfig
from trainable.trigger import Readout, Trigger, TriggerKind


def to_adapter(artifact: Artifact, base: BaseModel) -> Adapter:
    """Turn latents into virtual tokens.

    Args:
        base: the base model of the latents.

    Raises:
        StrategyError: if PEFT has no place for the strategy's latents; it names the field.
        BaseModelError: if the tokenizer puts more around a prompt than BOS.
    """
    refuse_strategy(artifact.config.strategy)
    virtual_VD = torch.from_numpy(artifact.latents)
    bos_D = _bos_embedding(base)
    if bos_D is not None and artifact.add_special_tokens:
        virtual_VD = torch.cat([bos_D[None], virtual_VD])
    model = base.model.config.get_text_config()
    config = adapter_fields(virtual_VD) | {
        "base_model_name_or_path": source_of(base.path),
        "revision": base.revision,
        "num_attention_heads": getattr(model, "num_attention_heads", None),
        "num_layers": getattr(model, "num_hidden_layers", None),
    }
    return Adapter(virtual_VD, config)


def to_artifact(adapter: Adapter, base: BaseModel) -> Artifact:
    """Turn virtual tokens into latents at the start, with positions of their own.

    Args:
        base: the base model that the adapter was trained on.

    Raises:
        ArtifactError: if the adapter's width is not the model's.
        BaseModelError: if the tokenizer puts more around a prompt than BOS.
    """
    latents_LD, width = adapter.virtual_VD, _width(base)
    if latents_LD.shape[1] != width:
        raise ArtifactError(
            f"the adapter's token_dim is {latents_LD.shape[1]}, but the embeddings of "
            f"{base.path!r} have width {width}: give the base model that it was trained on"
        )
    bos_D = _bos_embedding(base)
    behind_bos = bos_D is None  # nothing is added in front, with or without specials
    if bos_D is not None and len(latents_LD) > 1 and _is_rounded(latents_LD[0], bos_D):
        latents_LD, behind_bos = latents_LD[1:], True
    start = Trigger(kind=TriggerKind.START, m=len(latents_LD))
    strategy = InsertionStrategy(triggers={"start": start}, position_rule=PositionRule.OWN)
    return Artifact(
        latents=latents_LD.numpy().copy(),
        config=TrialConfig(strategy=strategy),
        base_model=base.describe(),
        provenance={
            "imported_from": "a PEFT prompt-tuning adapter",
            "peft_version": adapter.config.get("peft_version"),
            "adapter_base_model": adapter.config.get("base_model_name_or_path"),
            "add_special_tokens": behind_bos,
        },
    )


def refuse_other_base(adapter: Adapter, path: str) -> None:
    """Refuse an adapter that names another base model.

    A folder may have been moved and a model id downloaded, so the names' last parts are compared,
    without regard to case; two different model ids are never the same.

    Args:
        path: the base model that was given, as `base_model.path`.

    Raises:
        ArtifactError: naming both.
    """
    named, given = adapter.config.get("base_model_name_or_path"), source_of(path)
    if not isinstance(named, str) or not named or _same_model(named, given):
        return
    raise ArtifactError(
        f"the adapter's base_model_name_or_path is {named!r}, but the base model given is "
        f"{path!r}: on another model its vectors mean nothing; give the one that it was trained "
        "on, or say that this is it under another name with --renamed-base"
    )


def _same_model(named: str, given: str) -> bool:
    if is_model_id(named) and is_model_id(given) and "/" in named and "/" in given:
        return named.lower() == given.lower()
    return bool(_last_parts(named) & _last_parts(given))


def _last_parts(name: str) -> set[str]:
    """What a model may be called: a folder's name, or the id that a cached snapshot is of."""
    parts = [part for part in name.replace("\\", "/").lower().split("/") if part not in ("", ".")]
    cached = {part.split("--")[-1] for part in parts if part.startswith("models--")}
    return {*parts[-1:], *cached}


def refuse_strategy(strategy: InsertionStrategy) -> None:
    """Raise StrategyError, naming the field, unless all latents stand once at the start."""
    reason = _refusal(strategy)
    if reason is not None:
        raise StrategyError(
            f"{strategy.short_name} cannot become a PEFT prompt-tuning adapter: {reason}; PEFT has "
            "one group of virtual tokens, at the start, with position ids of their own"
        )


def adapter_card(artifact: Artifact, adapter: Adapter) -> str:
    """Say what the adapter is and how prompts must be tokenised for it."""
    base = artifact.base_model
    count = len(adapter.virtual_VD)
    has_bos = count > len(artifact.latents)
    front = "the embedding of BOS, then the latents" if has_bos else "the latents"
    lines = [
        "---",
        "library_name: peft",
        "pipeline_tag: text-generation",
        "---",
        "",
        f"# Prompt tuning for `{base.get('path')}`, exported by latentune",
        "",
        f"{describe_strategy(artifact.config)} As virtual tokens: {front}; {count} in all.",
        "",
        "**Tokenise prompts without specials**, `add_special_tokens=False`: PEFT puts virtual "
        f"tokens in front of everything{', and BOS is already the first of them' * has_bos}. A "
        "chat template's rendering must lose its leading BOS as well.",
        "",
        "```python",
        "from peft import PeftModel",
        "",
        'model = PeftModel.from_pretrained(base_model, "DIR")  # this folder',
        'inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")',
        "model.generate(**inputs)",
        "```",
        "",
        "One prompt at a time, or prompts of equal length: PEFT ignores position ids, so padding "
        "on the left changes what the model computes.",
        "",
        f"- base model fingerprint (latentune's): `{base.get('fingerprint')}`",
        f"- base model's dtype in training: {base.get('dtype')}",
        f"- search, trial: {artifact.provenance.get('search')}, "
        f"{artifact.provenance.get('trial_uid')}",
        "",
    ]
    return "\n".join(lines)


def _refusal(strategy: InsertionStrategy) -> str | None:
    if len(strategy.triggers) != 1:
        return f"strategy.triggers has {len(strategy.triggers)} triggers, expected one `start`"
    ((name, trigger),) = strategy.triggers.items()
    if trigger.kind is not TriggerKind.START:
        return f"strategy.triggers.{name}.kind is `{trigger.kind}`, expected `start`"
    if trigger.readout is not Readout.LATENT:
        return f"strategy.triggers.{name}.readout is `{trigger.readout}`, expected `latent`"
    if len(strategy.group_sizes) != 1:
        return f"strategy.specialization is `{strategy.specialization}`, which has several groups"
    if strategy.position_rule is not PositionRule.OWN:
        return f"strategy.position_rule is `{strategy.position_rule}`, expected `own`"
    return None


@torch.no_grad()
def _bos_embedding(base: BaseModel) -> torch.Tensor | None:
    """The embedding of the BOS that the tokenizer puts in front of prompts, [D], if it does."""
    bos_id = _leading_bos(base.tokenizer)
    if bos_id is None:
        return None
    device = next(base.embeddings.parameters()).device
    embedding_D: torch.Tensor = base.embeddings(torch.tensor([bos_id], device=device))[0]
    return embedding_D.float().cpu()


def _width(base: BaseModel) -> int:
    device = next(base.embeddings.parameters()).device
    return int(base.embeddings(torch.zeros(1, dtype=torch.long, device=device)).shape[-1])


def _leading_bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    with_specials = list(tokenizer("a,1")["input_ids"])
    without = list(tokenizer("a,1", add_special_tokens=False)["input_ids"])
    if with_specials == without:
        return None
    if tokenizer.bos_token_id is None or with_specials != [tokenizer.bos_token_id, *without]:
        added = [i for i in with_specials if i not in without]
        raise BaseModelError(
            f"the tokenizer adds {tokenizer.convert_ids_to_tokens(added)} to a prompt, and PEFT's "
            "virtual tokens can stand for a leading BOS alone: no exchange for this base model"
        )
    return int(tokenizer.bos_token_id)


def _is_rounded(value_D: torch.Tensor, exact_D: torch.Tensor) -> bool:
    """Whether a vector is bit-equal to another one, or to what another dtype makes of it."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    return any(torch.equal(value_D, exact_D.to(dtype).float()) for dtype in dtypes)
