"""The winner's attention picture, on one row of the validation data.

It needs the base model in memory, so it is drawn unasked only where that is small: `latentune
report NAME --attention` draws it with any.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from orchestrator.folders import SearchFolder
from orchestrator.results import SearchResult
from trainable.artifact import Artifact
from trainable.base_model.source import BUNDLED
from trainable.data import EncodedRow, EncodedTask, Split
from trainable.errors import LatentuneError

SMALL_MODEL_BYTES = 100 * 2**20
MOST_TOKENS = 200
_LOOKED_AT = 64  # rows among which the shortest is taken

When = Literal["small", "always", "never"]


@dataclass(frozen=True)
class Picture:
    """A PNG, whose latents it shows, and the row."""

    png: bytes
    whose: str
    split: str
    text: str
    query_tokens: int
    tokens: int


def draw_winner(folder: SearchFolder, result: SearchResult, when: When) -> Picture | str:
    """The picture, or why there is none: of the champion, else of the search's best trial."""
    record = result.confirmation
    champion = None if record is None else record.champion_uid
    uid = champion or result.best
    if uid is None or when == "never":
        return "no trial has run to the full budget yet" if when != "never" else "not asked for"
    path = folder.artifact(uid)
    try:
        artifact = Artifact.load(path)
        if not artifact.config.strategy.latent_count:
            return "the best trial inserts no latents"
        if when == "small" and not _is_small(artifact):
            return (
                "the base model is large, and would have to be loaded for it: "
                f"`latentune report {result.name} --attention` draws it"
            )
        return _draw(path, "The champion" if champion else "The search's best trial")
    except (LatentuneError, OSError) as error:
        return f"it could not be drawn: {error}"


def _is_small(artifact: Artifact) -> bool:
    path = str(artifact.base_model.get("path", BUNDLED))
    if path == BUNDLED:
        return True
    weights = list(Path(path).glob("*.safetensors")) if Path(path).is_dir() else []
    return bool(weights) and sum(file.stat().st_size for file in weights) <= SMALL_MODEL_BYTES


def _draw(path: Path, who: str) -> Picture | str:
    # torch and transformers take seconds to import; a report without this picture needs none.
    from orchestrator.attention_data import subject_of
    from orchestrator.attention_figure import draw
    from orchestrator.usage import attach_folder, task_of
    from trainable.attention import read_attention

    lm, latents = attach_folder(path, None)
    artifact = latents.artifact
    data = EncodedTask(task_of(artifact, lm, ()), lm.tokenizer)
    split: Split = "val_ood" if "val_ood" in data.splits else "val_id"
    row = min(data.rows(split)[:_LOOKED_AT], key=lambda found: len(found.ids))
    if len(row.ids) > MOST_TOKENS:
        row = EncodedRow(row.ids[:MOST_TOKENS], min(row.query_length, MOST_TOKENS), row.distance)
    shares = read_attention(
        lm.frozen, lm.latents, lm.rules, row, artifact.config.strategy.group_sizes
    )
    if not shares.sites:
        return f"the strategy makes no site in the first row of {split}"
    subject = subject_of(artifact, lm, row)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "attention.png"
        draw(file, shares, subject)
        png = file.read_bytes()
    text = str(lm.tokenizer.decode(row.ids))
    whose = f"{who}, {artifact.config.strategy.short_name}"
    return Picture(png, whose, split, text, row.query_length, len(row.ids))
