"""The artifact folder: what a search hands over. Safetensors and JSON, never pickle.

    latent_config.json     format version, strategy, base model, tokenizer, metrics, ids, versions,
                           SHA-256 of itself and of the latents, checked on reading
    latents.safetensors    "latents": float32 [L, D]
    README.md              a model card, written from the numbers

Knows no torch, so that the driver of a search can write artifacts.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save_file

from trainable.errors import ArtifactError, StrategyError, TrialError
from trainable.foreign_files import read_mapping, read_tensors, refuse_pickles
from trainable.strategy import PositionRule, Specialization
from trainable.trial import TrialConfig
from trainable.trigger import Region, Side, Trigger, TriggerKind
from trainable.whole_folder import whole_folder

FORMAT_VERSION = 1
CONFIG_FILE, LATENTS_FILE, CARD_FILE = "latent_config.json", "latents.safetensors", "README.md"
FILES = (CONFIG_FILE, LATENTS_FILE, CARD_FILE)
_MAPPINGS = ("base_model", "task", "metrics", "provenance")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Trained latents and everything needed to use and to judge them.

    Args:
        latents: [L, D], float32.
        config: the trial's configuration.
        base_model: from `BaseModel.describe`.
        task: the search's task options and data seed.
        metrics: what the trial reached, name to value.
        provenance: search, trial, steps and where they ran.
        confirmation: what was confirmed on data that the search never saw; empty for a
            candidate. `scores` are rows with metric, mean, low, high and the best control's mean.
    """

    latents: Floats
    config: TrialConfig
    base_model: Mapping[str, Any]
    task: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    confirmation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = self.config.strategy.latent_count
        if self.latents.ndim != 2 or len(self.latents) != expected:
            raise ArtifactError(
                f"latents have shape {self.latents.shape}, expected [{expected}, D] for strategy "
                f"{self.config.strategy.short_name}"
            )
        if self.latents.dtype != np.float32 or not np.isfinite(self.latents).all():
            raise ArtifactError(f"latents must be finite float32, got {self.latents.dtype}")

    @property
    def data_seed(self) -> int:
        """The seed of the task's data. Raises ArtifactError where the artifact has none."""
        seed = self.task.get("data_seed")
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ArtifactError(
                f"the artifact's task.data_seed={seed!r} must be a whole number of at least 0: "
                "pull it again, or score it on data of your own"
            )
        return seed

    @property
    def add_special_tokens(self) -> bool:
        """Whether prompts are tokenised with their specials, as everywhere but behind imports."""
        return self.provenance.get("add_special_tokens", True) is not False

    def save(self, folder: Path) -> None:
        """Write the folder; it appears whole or not at all, and replaces an earlier one."""
        with whole_folder(folder) as scratch:
            save_file({"latents": np.ascontiguousarray(self.latents)}, scratch / LATENTS_FILE)
            config = self._config()
            config["sha256"] = _digests(config, scratch / LATENTS_FILE)
            (scratch / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
            (scratch / CARD_FILE).write_text(model_card(self))

    def _config(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "trial": self.config.to_dict(),
            "latent_shape": list(self.latents.shape),
            "group_sizes": list(self.config.strategy.group_sizes),
            "base_model": dict(self.base_model),
            "task": dict(self.task),
            "metrics": dict(self.metrics),
            "provenance": dict(self.provenance),
            **({"confirmation": dict(self.confirmation)} if self.confirmation else {}),
            "versions": versions(),
        }

    @classmethod
    def load(cls, folder: Path) -> Artifact:
        """Read a folder.

        Raises:
            ArtifactError: if a file is missing, unreadable, a link, of another format version,
                the files contradict each other, or a pickle lies beside them.
        """
        for name in (CONFIG_FILE, LATENTS_FILE):
            if not (folder / name).is_file():
                raise ArtifactError(f"{folder} is no artifact folder: it has no {name}")
        refuse_pickles(folder)
        config = read_mapping(folder / CONFIG_FILE)
        version = config.get("format_version")
        if version != FORMAT_VERSION:
            raise ArtifactError(
                f"{folder} has format version {version!r}, this release reads {FORMAT_VERSION}: "
                "use the release that wrote it or a newer one"
            )
        tensors = read_tensors(folder / LATENTS_FILE, load)
        if set(tensors) != {"latents"}:
            raise ArtifactError(f"{folder / LATENTS_FILE} must hold `latents` alone")
        try:
            artifact = cls(
                latents=tensors["latents"],
                config=TrialConfig.from_dict(config["trial"]),
                **{name: _mapping(config, name) for name in _MAPPINGS},
                confirmation=_mapping({"confirmation": {}} | config, "confirmation"),
            )
            artifact._refuse_contradictions(config)
            _refuse_damage(folder, config)
        except (KeyError, TypeError, StrategyError, TrialError) as error:
            raise ArtifactError(
                f"{folder / CONFIG_FILE} is incomplete or wrong: {error}"
            ) from error
        return artifact

    def _refuse_contradictions(self, config: Mapping[str, Any]) -> None:
        """Check what the config repeats for other readers."""
        expected = {
            "latent_shape": list(self.latents.shape),
            "group_sizes": list(self.config.strategy.group_sizes),
        }
        for name, value in expected.items():
            if config[name] != value:
                raise ArtifactError(
                    f"{CONFIG_FILE} says {name} {config[name]}, but latents and strategy have "
                    f"{value}: the folder was changed; pull it again"
                )


def _digests(config: Mapping[str, Any], latents: Path) -> dict[str, str]:
    """SHA-256 of the latents' file, and of the configuration as data, these digests left out."""
    plain = {key: value for key, value in config.items() if key != "sha256"}
    text = json.dumps(json.loads(json.dumps(plain)), sort_keys=True)
    return {
        LATENTS_FILE: hashlib.sha256(latents.read_bytes()).hexdigest(),
        CONFIG_FILE: hashlib.sha256(text.encode()).hexdigest(),
    }


def _refuse_damage(folder: Path, config: Mapping[str, Any]) -> None:
    """Find what reads well and is not what was written, such as a flipped bit."""
    told = config.get("sha256")  # artifacts of earlier releases have none
    if told is None:
        return
    for name, digest in _digests(config, folder / LATENTS_FILE).items():
        if not isinstance(told, dict) or told.get(name) != digest:
            raise ArtifactError(
                f"{folder / name} is damaged: its SHA-256 is not the one in {CONFIG_FILE}; pull it "
                "again"
            )


def model_card(artifact: Artifact) -> str:
    """Write the card that a person reads first: what it is, how good, how to load it."""
    strategy, base = artifact.config.strategy, artifact.base_model
    source = artifact.provenance.get("imported_from")
    lines = [
        f"# Latent tokens {_code(strategy.short_name)} for {_code(base.get('path'))}",
        "",
        f"{describe_strategy(artifact.config)} "
        f"{'Trained' if source is None else f'Imported from {_words(source)}'} by latentune "
        "(arXiv 2505.12629); the base model's weights are untouched.",
        "",
        "```python",
        *_loading(artifact),
        "lm = latents.attach(model, tokenizer)  # refuses any other base model",
        "```",
        "",
        *_facts(artifact),
        "",
        *(_confirmed(artifact.confirmation) if artifact.confirmation else ()),
        *(_scores(artifact) if source is None else ()),
        "## Configuration",
        "",
        "```json",
        json.dumps(artifact.config.to_dict(), indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def _loading(artifact: Artifact) -> list[str]:
    if "imported_from" in artifact.provenance:
        return [
            "from trainable.latents import LatentTokens",
            "",
            'latents = LatentTokens.load("DIR")  # this folder',
        ]
    search = artifact.provenance.get("search", "NAME")
    return ["from orchestrator import pull", "", f'latents = pull("{search}")']


def _facts(artifact: Artifact) -> list[str]:
    base, provenance = artifact.base_model, artifact.provenance
    facts = [f"latents: {artifact.latents.shape[0]} x {artifact.latents.shape[1]}, float32"]
    if "imported_from" not in provenance:
        trial, step = provenance.get("trial_uid", "unknown"), provenance.get("step", 0)
        facts.insert(0, f"trial: {_code(trial)}, {step} optimiser steps")
    if not artifact.add_special_tokens:
        facts.append(
            "tokenise prompts without specials, `tokenizer(text, add_special_tokens=False)`: the "
            "latents stand in front of everything, and a BOS behind them was not there before"
        )
    if base.get("latent_space"):
        facts.append(
            f"latent space: rows of {base['latent_space']}, which the embeddings scale by "
            f"{_factor(base.get('embedding_scale'))}; the first block sees them times "
            f"{_factor(base.get('block_input_scale'))}"
        )
    if base.get("quantization"):
        facts.append(f"base model quantised: {base['quantization']}")
    if base.get("attn_implementation", "sdpa") != "sdpa":
        facts.append(
            f'load the base model with `attn_implementation="{base["attn_implementation"]}"`, as '
            "in training"
        )
    facts.append(f"base model fingerprint: {_code(base.get('fingerprint'))}")
    if base.get("trust_remote_code"):
        facts.append(
            "**the base model runs code of its own**, from revision "
            f"{_code(base.get('revision'))}: read it before you allow it "
            "(`trust_remote_code=True`, `--trust-remote-code`)"
        )
    return [f"- {fact}" for fact in facts]


def _scores(artifact: Artifact) -> list[str]:
    return [
        "## What it reached",
        "",
        f"Scored after {artifact.provenance.get('scored_at_step', 'all')} steps.",
        "",
        "| metric | value |",
        "|---|---|",
        *(
            f"| {_words(name)} | {_number(value)} |"
            for name, value in sorted(artifact.metrics.items())
        ),
        "",
        "These are the scores of this seed alone."
        if artifact.confirmation
        else "These are validation scores of one seed, and the search that found this trial picked "
        "it for them: they flatter it. Nothing here has been confirmed on data that the search "
        "never saw, so the registry alias is `candidate`; `champion` waits for confirmation.",
        "",
    ]


def _confirmed(found: Mapping[str, Any]) -> list[str]:
    """The confirmed numbers: of the configuration, over seeds and items."""
    return [
        "## What was confirmed",
        "",
        f"Scores on test rows that the search never saw: the mean over {found['seeds']} fresh "
        "seeds with its 95 % interval over seeds and items, beside the best control, "
        f"`{found['control']}`, which validation data chose.",
        "",
        "| metric | rows | mean | 95 % interval | control |",
        "|---|---|---|---|---|",
        *(
            f"| {_words(s['metric'])} | {s['rows']} | {s['mean']:.3f} "
            f"| {s['low']:.3f} to {s['high']:.3f} | {s['control_mean']:.3f} |"
            for s in found["scores"]
        ),
        "",
        f"{found['verdict']} (paired over items and seeds, Holm's correction). The latents here "
        "are those of the seed that did best on validation data.",
        "",
    ]


def describe_strategy(config: TrialConfig) -> str:
    """The strategy in words, as one to three sentences."""
    strategy = config.strategy
    if not strategy.triggers:
        return "No latent tokens: the frozen model as it is."
    parts = [f"{t.m} latent token{'s' * (t.m > 1)} {_place(t)}" for t in strategy.triggers.values()]
    roles = {
        Specialization.SHARED: "All sites share one group." if len(parts) > 1 else "",
        Specialization.BY_TRIGGER: "Each trigger has its own group." if len(parts) > 1 else "",
        Specialization.BY_REGION: "Query and response have a group each.",
        Specialization.CYCLE: f"Successive sites take {strategy.groups} groups in turn.",
    }[strategy.specialization]
    positions = {
        PositionRule.FOLLOWING: "",
        PositionRule.PRECEDING: "Latents take the position id of the token in front of them.",
        PositionRule.OWN: "Latents have position ids of their own.",
    }[strategy.position_rule]
    return " ".join(text for text in (", and ".join(parts) + ".", roles, positions) if text)


def _place(trigger: Trigger) -> str:
    side = "right after" if trigger.side is Side.AFTER else "before"
    place = {
        TriggerKind.START: "at the start of the query",
        TriggerKind.END: "at the end of the query",
        TriggerKind.DELIMITER: f"{side} each token that matches {_code(trigger.shown_pattern)}",
        TriggerKind.EVERY: f"after every {trigger.k} tokens",
        TriggerKind.RANDOM: f"before a random {100 * (trigger.rate or 0):g} % of the tokens",
    }[trigger.kind]
    return place if trigger.region in (None, Region.BOTH) else f"{place} of the {trigger.region}"


def versions() -> dict[str, str]:
    """The versions that decide a trial's numbers."""
    found = {"python": platform.python_version()}
    for name in ("latentune", "torch", "transformers", "numpy", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _mapping(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config[name]
    if not isinstance(value, dict):
        raise TypeError(f"{name} must be a mapping, got {value!r}")
    return value


def _code(value: object) -> str:
    """A name as Markdown code, in which nothing is a link, a tag or another line."""
    return "`" + _one_line(str(value)).replace("`", "'") + "`"


def _one_line(text: str) -> str:
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


def _words(value: object) -> str:
    """Words without a tag, another line or a column."""
    return _one_line(str(value)).replace("<", "&lt;").replace("|", "\\|")


def _factor(value: float | None) -> str:
    return "no one factor" if value is None else f"{value:g}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
