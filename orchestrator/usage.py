"""Use a pulled artifact folder: `latentune generate` and `latentune evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from orchestrator.results import SCHEMA_VERSION, Record
from trainable.artifact import Artifact
from trainable.base_model.loading import BaseModel, load_base
from trainable.base_model.source import BUNDLED
from trainable.data import EncodedTask, Split, Task
from trainable.decoding import LatentLM
from trainable.errors import BaseModelError, TaskError
from trainable.evaluation import evaluate_decoding
from trainable.latents import LatentTokens
from trainable.tasks import build_task


class Evaluation(Record):
    """Scores of one artifact folder, by free-running greedy decoding."""

    schema_version: int = SCHEMA_VERSION
    folder: str
    strategy: str
    rows_per_distance: int
    metrics: dict[str, float]


def attach_folder(
    folder: Path, base_model: str | None, *, trust_remote_code: bool = False
) -> tuple[LatentLM, LatentTokens]:
    """Load an artifact folder and the base model that it names, and join them.

    Args:
        base_model: where the base model is now; default where the artifact says it was.
        trust_remote_code: whether the base model's own code may run; an artifact alone never
            makes it run.

    Raises:
        ArtifactError, FingerprintError, BaseModelError: if either cannot be used.
    """
    latents = LatentTokens.load(folder)
    base = base_of(latents.artifact, base_model, trust_remote_code=trust_remote_code)
    return latents.attach(base.model, base.tokenizer), latents


def base_of(artifact: Artifact, base_model: str | None, *, trust_remote_code: bool) -> BaseModel:
    """Load the base model that an artifact names, as it was loaded for training.

    Raises:
        BaseModelError: if it cannot be used, or would run code of its own unasked.
    """
    named = artifact.base_model
    own_code = bool(named.get("trust_remote_code"))
    path = base_model or str(named.get("path", BUNDLED))
    if own_code and not trust_remote_code:
        raise BaseModelError(
            f"the base model {path!r} runs code of its own: read it at revision "
            f"{named.get('revision')}, then allow it with --trust-remote-code"
        )
    return load_base(
        path,
        revision=named.get("revision") if base_model is None or own_code else None,
        dtype=str(named.get("dtype", "float32")),
        quantization=named.get("quantization"),
        trust_remote_code=own_code,
    )


def generate_text(
    folder: Path,
    prompt: str,
    max_new_tokens: int,
    base_model: str | None,
    *,
    trust_remote_code: bool = False,
) -> str:
    """The prompt and what the model makes of it, greedily."""
    lm, latents = attach_folder(folder, base_model, trust_remote_code=trust_remote_code)
    specials = latents.artifact.add_special_tokens
    inputs = lm.tokenizer(prompt, add_special_tokens=specials, return_tensors="pt").to(lm.device)
    output = lm.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return str(lm.tokenizer.decode(output[0], skip_special_tokens=True))


def evaluate_folder(
    folder: Path,
    splits: Sequence[str],
    rows_per_distance: int,
    base_model: str | None,
    *,
    trust_remote_code: bool = False,
) -> Evaluation:
    """Score an artifact folder on splits of the task that it was trained for.

    Raises:
        TaskError: for a split that does not exist.
    """
    for split in splits:
        if split not in get_args(Split):
            raise TaskError(f"--split {split!r} is unknown; one of {', '.join(get_args(Split))}")
    lm, latents = attach_folder(folder, base_model, trust_remote_code=trust_remote_code)
    data = EncodedTask(_task_of(latents.artifact), lm.tokenizer)
    metrics: dict[str, float] = {}
    for split in splits:
        metrics |= evaluate_decoding(lm, data, split, rows_per_distance)  # type: ignore[arg-type]
    return Evaluation(
        folder=str(folder),
        strategy=latents.artifact.config.strategy.short_name,
        rows_per_distance=rows_per_distance,
        metrics=metrics,
    )


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Scores as a table."""
    table = Table("metric", "value", title=evaluation.strategy, title_justify="left")
    for name, value in evaluation.metrics.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)


def _task_of(artifact: Artifact) -> Task:
    options = {key: value for key, value in artifact.task.items() if key != "data_seed"}
    return build_task(options, artifact.data_seed)
