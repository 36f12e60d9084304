"""The sections of a search's configuration: frozen models, and every default.

Each field's description says what it is, in words that complete "give ...": the messages
for wrong values and the JSON schema for editors are made of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)

from orchestrator import python_space
from orchestrator.errors import ConfigError
from search_spaces import PRESETS, Space, SpaceError, check_legal
from search_spaces.errors import Problem, did_you_mean, shown
from trainable.base_model.options import DEVICE_MAPS, REFUSED_ATTENTIONS, is_commit, is_device_map
from trainable.data import LongRows

Count: TypeAlias = Annotated[int, Strict(), Field(ge=1)]
MOST_LENGTHS = 1_000  # of one split
# Far beyond any use, and before a slip fills a disk, a memory or a life.
Trials: TypeAlias = Annotated[int, Strict(), Field(ge=1, le=1_000_000)]
Steps: TypeAlias = Annotated[int, Strict(), Field(ge=1, le=100_000_000)]
Length: TypeAlias = Annotated[int, Strict(), Field(ge=1, le=10_000)]
Rows: TypeAlias = Annotated[int, Strict(), Field(ge=1, le=10_000_000)]
Few: TypeAlias = Annotated[int, Strict(), Field(ge=1, le=10_000)]
Seed: TypeAlias = Annotated[int, Strict(), Field(ge=0, lt=2**32)]
Flag: TypeAlias = Annotated[bool, Strict()]
Text: TypeAlias = Annotated[str, Field(min_length=1)]
PositiveFactor: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds: TypeAlias = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]
Amount: TypeAlias = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]


def refused(got: object, wrong: str, remedy: str) -> ConfigError:
    """What a field's validator raises: one problem, whose path pydantic knows."""
    return ConfigError([Problem(path="", got=shown(got), wrong=wrong, remedy=remedy)])


def _tested_attention(value: object) -> object:
    if isinstance(value, str) and value in REFUSED_ATTENTIONS:
        raise refused(value, REFUSED_ATTENTIONS[value], "write sdpa or eager")
    return value


def _device_map(value: object) -> object:
    if not is_device_map(value):
        raise refused(value, f"expected {DEVICE_MAPS}", "write auto or remove it")
    return value


def _tokens_or_auto(value: object) -> object:
    if value is None or value == "auto" or (type(value) is int and value >= 1):
        return value
    raise refused(value, "expected a whole number of at least 1, or auto", "remove it if unsure")


class Section(BaseModel):
    """What all parts of a configuration share: frozen, and no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BaseModelConfig(Section):
    """The frozen model and where it runs."""

    path: Text = Field(
        default="bundled", description="`bundled`, a Hugging Face id or a folder with a model"
    )
    revision: Text | None = Field(default=None, description="the revision of a Hugging Face id")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="the type of the frozen weights"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="the device of the model"
    )
    device_map: Annotated[Any, AfterValidator(_device_map)] = Field(
        default=None,
        description="`auto` to spread the model over the GPUs of an engine, or module to device",
        json_schema_extra={"type": ["string", "object", "null"]},
    )
    attn_implementation: Annotated[Literal["sdpa", "eager"], BeforeValidator(_tested_attention)] = (
        Field(default="sdpa", description="the attention implementation of transformers")
    )
    quantization: Literal["bitsandbytes-4bit", "bitsandbytes-8bit"] | None = Field(
        default=None, description="how the frozen weights are quantised"
    )
    trust_remote_code: Flag = Field(
        default=False, description="true to run the model's own code, of the pinned revision"
    )

    @field_validator("device_map")
    @classmethod
    def _excludes_device(cls, device_map: Any, info: ValidationInfo) -> Any:
        device = info.data.get("device", "auto")
        if device_map is not None and device != "auto":
            wrong = f"device_map and device: {device} exclude each other"
            raise refused(device_map, wrong, "leave one of them out")
        return device_map

    @field_validator("trust_remote_code")
    @classmethod
    def _is_pinned(cls, trust: bool, info: ValidationInfo) -> bool:
        if trust and not is_commit(info.data.get("revision")):
            wrong = "code may run only where base_model.revision is a full commit"
            raise refused(trust, wrong, "read that code and set revision to its 40 digits")
        return trust


class DataConfig(Section):
    """The one stream of examples that all trials of the search share."""

    seed: Seed = Field(default=0, description="the seed of the examples and of their order")
    max_tokens: Count | None = Field(
        default=None, description="the longest row in tokens, latents included"
    )
    long_rows: LongRows = Field(
        default="refuse", description="what becomes of longer rows; dropped ones are counted"
    )


class SpaceConfig(Section):
    """What is searched: a preset by name, or axes of one's own, written here or in Python."""

    preset: Text | None = Field(default=None, description="the name of a preset")
    python: Text | None = Field(
        default=None, description="file.py:function that returns the axes; once read, it is null"
    )
    axes: Any = Field(
        default=None,
        validate_default=True,
        description="a tree of fixed values and axes that mirrors a trial",
        json_schema_extra={"type": ["object", "null"]},
    )
    baselines: Flag = Field(default=True, description="true to train the baselines as well")
    start_points: Flag = Field(
        default=True, description="true to try the paper's configurations that fit the space first"
    )

    @model_validator(mode="before")
    @classmethod
    def _reads_python(cls, data: Any, info: ValidationInfo) -> Any:
        """The function's tree in the place of its name: a search keeps what it was given."""
        spec = data.get("python") if isinstance(data, dict) else None
        if not isinstance(spec, str):
            return data
        if data.get("axes") is not None or data.get("preset") is not None:
            wrong = "python, axes and preset exclude each other"
            raise python_space.refused(spec, wrong, "keep one")
        folder = (info.context or {}).get("folder") or Path.cwd()
        tree = python_space.load_tree(spec, Path(folder))
        return {**data, "python": None, "axes": tree}

    @field_validator("preset")
    @classmethod
    def _is_known(cls, preset: str | None) -> str | None:
        if preset is not None and preset not in PRESETS:
            raise refused(preset, "there is no such preset", did_you_mean(preset, PRESETS))
        return preset

    @field_validator("axes")
    @classmethod
    def _are_a_space(cls, axes: Any, info: ValidationInfo) -> Any:
        preset = info.data.get("preset", "")  # absent where it was refused
        if axes is None:
            if preset is None:
                remedy = f"give axes or a preset: {', '.join(PRESETS)}"
                raise ConfigError([Problem(path="", wrong="nothing is searched", remedy=remedy)])
            return None
        problems = []
        if preset is not None:
            wrong = "a preset and axes exclude each other"
            problems.append(Problem(path="", wrong=wrong, remedy="keep one of the two"))
        try:
            space = Space(axes)
            check_legal(space)
        except SpaceError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems)
        return space.tree

    def build(self) -> Space:
        """The space itself."""
        return Space(self.axes) if self.preset is None else PRESETS[self.preset]()


class BudgetConfig(Section):
    """What the search may spend. A running search's budget may grow."""

    trials: Trials = Field(description="the number of trials")
    steps: Steps = Field(default=540, description="the optimiser steps of a full trial")
    time_s: Seconds | None = Field(default=None, description="the longest running time in seconds")
    total_steps: Count | None = Field(
        default=None, description="the most optimiser steps of all trials together"
    )
    tokens: Count | None = Field(
        default=None, description="the most tokens to train on, latents included, in all trials"
    )
    gpu_hours: Amount | None = Field(
        default=None, description="the most GPU-hours: running hours times the GPUs in use"
    )
    money: Amount | None = Field(
        default=None, description="the most money: running hours times price_per_hour"
    )
    price_per_hour: Amount | None = Field(
        default=None, description="the price of an hour of all that the search runs on"
    )

    @model_validator(mode="after")
    def _has_a_price(self) -> BudgetConfig:
        if self.money is not None and self.price_per_hour is None:
            remedy = "add price_per_hour: what an hour of your machines costs"
            wrong = "money needs a price"
            raise ConfigError(
                [Problem(path="money", wrong=wrong, remedy=remedy, location=("money",))]
            )
        return self


class SamplerConfig(Section):
    """How the next configuration is chosen."""

    kind: Literal["tpe", "gp", "nsga2", "random", "grid"] = Field(
        default="tpe", description="the sampler; `grid` tries every configuration once, in order"
    )
    seed: Seed = Field(default=0, description="the sampler's seed")
    startup_trials: Annotated[int, Strict(), Field(ge=0, le=1_000_000)] = Field(
        default=8, description="the number of random trials before `tpe` and `gp` model them"
    )
    population: Annotated[int, Strict(), Field(ge=2, le=1_000_000)] = Field(
        default=16, description="the trials of a generation of `nsga2`"
    )
    warm_start: tuple[Text, ...] = Field(
        default=(), description="names of earlier searches of the same space to learn from"
    )

    @field_validator("warm_start")
    @classmethod
    def _learns(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        kind = info.data.get("kind")
        if names and kind in ("random", "grid"):
            wrong = f"the sampler {kind} learns from no trial"
            raise refused(list(names), wrong, "remove it, or write sampler.kind: tpe")
        return names


class StoppingConfig(Section):
    """How weak trials are stopped early."""

    kind: Literal["asha", "hyperband", "median", "none"] = Field(
        default="asha", description="the stopping rule"
    )
    min_steps: Steps = Field(default=60, description="the optimiser steps that every trial gets")
    metric: Text | None = Field(
        default=None, description="the metric that trials are ranked by; null is the objective"
    )
    factor: Annotated[int, Strict(), Field(ge=2, le=1_000_000)] = Field(
        default=3, description="the ratio of one rung to the next; one in `factor` goes on"
    )
    startup_trials: Count = Field(
        default=5, description="the complete trials that `median` needs before it cuts any"
    )


class EngineConfig(Section):
    """How many trials share the frozen model, and how much goes through it at once."""

    concurrent_trials: Few = Field(
        default=8, description="the number of trials that an engine trains together"
    )
    count: Few | None = Field(
        default=None,
        description="the most engines; null for as many as there are places and trials for",
    )
    gpus: Few | None = Field(
        default=None,
        description="the GPUs of an engine; of several, the model is spread over them",
    )
    step_timeout_s: Seconds | None = Field(
        default=None,
        description="the seconds after which a step hangs and its engine is replaced; null "
        "derives them from measured steps, 300 at least",
    )
    micro_batch_tokens: Annotated[
        Count | Literal["auto"] | None, BeforeValidator(_tokens_or_auto)
    ] = Field(
        default=None,
        description="the most tokens in one forward, padding included; `auto` tries what a GPU "
        "can hold; default by device",
    )
    threads: Few | None = Field(default=None, description="the CPU threads of an engine")
    share_prefixes: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="compute what precedes the first site once for all trials: where it pays, "
        "always or never",
    )
    precision: Literal["float32", "bfloat16"] | None = Field(
        default=None,
        description="`bfloat16` trains a float32 base with bfloat16 products; latents, their "
        "moments and all scores stay in float32; default as the base is loaded",
    )
    compile: Flag = Field(
        default=False, description="true to compile the frozen model's layers for training"
    )
    checkpoint_activations: Flag = Field(
        default=False,
        description="true to compute layers again in the backward instead of keeping what it needs",
    )
    deterministic: Flag = Field(
        default=False,
        description="true for one trial per forward: slower, and bit-equal again on the same CPU",
    )

    @field_validator("checkpoint_activations")
    @classmethod
    def _excludes_compile(cls, checkpointed: bool, info: ValidationInfo) -> bool:
        if checkpointed and info.data.get("compile"):
            wrong = "checkpoint_activations and compile exclude each other"
            raise refused(checkpointed, wrong, "leave one of them out")
        return checkpointed


class ConfirmConfig(Section):
    """Whether and how the best configurations are trained again and tested."""

    enabled: Flag = Field(
        default=True, description="true to confirm the winner at the end of the search"
    )
    top: Few = Field(default=3, description="how many configurations are confirmed")
    seeds: Annotated[int, Strict(), Field(ge=2, le=10_000)] = Field(
        default=5, description="the number of fresh seeds of each configuration"
    )
    rows: Count | None = Field(
        default=None, description="the most test rows per distance; null takes all there are"
    )
    control_lr_factors: tuple[PositiveFactor, ...] = Field(
        default=(0.3, 1.0, 3.0),
        min_length=1,
        description="what a candidate's learning rate is multiplied by for its control, to try",
    )
    controls: Literal["each", "first"] = Field(
        default="each",
        description="whether each configuration has controls of its own size, or the first one "
        "alone, with whose controls all are compared: cheaper",
    )
    members_at_once: Few = Field(
        default=128, description="the most members that are trained in one fused batch"
    )


class TrackingConfig(Section):
    """Where MLflow shows the search."""

    experiment: Text = Field(default="latentune", description="the MLflow experiment's name")
    uri: Text | None = Field(
        default=None, description="the MLflow server; MLFLOW_TRACKING_URI goes before it"
    )
    report: bool = Field(default=True, description="write the report when the search ends")
    on_end: tuple[Text, ...] = Field(
        default=(),
        description="a command and its arguments, run without a shell when the search ends",
    )
