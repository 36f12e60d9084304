"""The sections of a search's configuration: frozen models, and every default.

Each field's description says what it is, in words that complete "give ...": the messages
for wrong values and the JSON schema for editors are made of them.
"""

from __future__ import annotations

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
)

from orchestrator.errors import ConfigError
from search_spaces import PRESETS, Space, SpaceError, check_legal
from search_spaces.errors import Problem, did_you_mean, shown
from trainable.base_model.options import DEVICE_MAPS, REFUSED_ATTENTIONS, is_commit, is_device_map

Count: TypeAlias = Annotated[int, Strict(), Field(ge=1)]
Seed: TypeAlias = Annotated[int, Strict(), Field(ge=0, lt=2**32)]
Flag: TypeAlias = Annotated[bool, Strict()]
Text: TypeAlias = Annotated[str, Field(min_length=1)]
Seconds: TypeAlias = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]


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
    long_rows: Literal["refuse", "drop"] = Field(
        default="refuse", description="what becomes of longer rows; dropped ones are counted"
    )


class SpaceConfig(Section):
    """What is searched: a preset by name, or axes of one's own."""

    preset: Text | None = Field(default=None, description="the name of a preset")
    axes: Any = Field(
        default=None,
        validate_default=True,
        description="a tree of fixed values and axes that mirrors a trial",
        json_schema_extra={"type": ["object", "null"]},
    )
    baselines: Flag = Field(default=True, description="true to train the baselines as well")

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

    trials: Count = Field(description="the number of trials")
    steps: Count = Field(default=540, description="the optimiser steps of a full trial")
    time_s: Seconds | None = Field(default=None, description="the longest running time in seconds")


class SamplerConfig(Section):
    """How the next configuration is chosen."""

    kind: Literal["tpe", "random", "grid"] = Field(
        default="tpe", description="the sampler; `grid` tries every configuration once, in order"
    )
    seed: Seed = Field(default=0, description="the sampler's seed")
    startup_trials: Annotated[int, Strict(), Field(ge=0)] = Field(
        default=8, description="the number of random trials before `tpe` models them"
    )


class StoppingConfig(Section):
    """How weak trials are stopped early."""

    kind: Literal["asha", "none"] = Field(default="asha", description="the stopping rule")
    min_steps: Count = Field(default=60, description="the optimiser steps that every trial gets")
    metric: Text | None = Field(
        default=None, description="the metric that trials are ranked by; null is the objective"
    )
    factor: Annotated[int, Strict(), Field(ge=2)] = Field(
        default=3, description="the ratio of one rung to the next; one in `factor` goes on"
    )


class EngineConfig(Section):
    """How many trials share the frozen model, and how much goes through it at once."""

    concurrent_trials: Count = Field(default=8, description="the number of trials trained together")
    micro_batch_tokens: Count | None = Field(
        default=None,
        description="the most tokens in one forward, padding included; default by device",
    )
    threads: Count | None = Field(default=None, description="the CPU threads of an engine")
    deterministic: Flag = Field(
        default=False,
        description="true for one trial per forward: slower, and bit-equal again on the same CPU",
    )


class ConfirmConfig(Section):
    """Whether the best configurations are trained again and tested."""

    enabled: Flag = Field(default=False, description="true to confirm the winner")

    @field_validator("enabled")
    @classmethod
    def _comes_later(cls, enabled: bool) -> bool:
        if enabled:
            raise refused(enabled, "confirmation is not there yet", "remove it or write false")
        return enabled


class TrackingConfig(Section):
    """Where MLflow shows the search."""

    experiment: Text = Field(default="latentune", description="the MLflow experiment's name")
    uri: Text | None = Field(
        default=None, description="the MLflow server; MLFLOW_TRACKING_URI goes before it"
    )
