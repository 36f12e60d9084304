"""`latentune inspect`: what a sequence's verbal tokens look at, as a figure and as data.

    attention.parquet   one row per layer, head, verbal token and site that it sees
    attention.png       heatmaps, and the share against the distance
    summary.json        what `--json` prints

The three files stand in a folder of their own. The same inspection may be written into it
again; anything else in the way is left alone.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from orchestrator.attention_data import (
    MEAN,
    Curve,
    Inspection,
    Subject,
    subject_of,
    summarise,
    write_table,
)
from orchestrator.attention_figure import draw
from orchestrator.console import print_line
from orchestrator.errors import TargetExistsError
from orchestrator.usage import attach_folder
from trainable.artifact import Artifact
from trainable.attention import AttentionShares, check_context, read_attention
from trainable.data import EncodedRow
from trainable.decoding import LatentLM
from trainable.errors import AttentionError
from trainable.latents import LatentTokens

DATA_FILE, FIGURE_FILE, SUMMARY_FILE = "attention.parquet", "attention.png", "summary.json"
FILES = (DATA_FILE, FIGURE_FILE, SUMMARY_FILE)
_SHOWN_DISTANCES = 8


def inspect_folder(
    artifact_folder: Path,
    prompt: str,
    *,
    completion: str | None = None,
    max_new_tokens: int = 64,
    to: Path | None = None,
    base_model: str | None = None,
    trust_remote_code: bool = False,
) -> Inspection:
    """Show what the verbal tokens of a prompt and its completion look at.

    Args:
        completion: default what the model itself makes of the prompt, greedily.
        max_new_tokens: of that; 0 looks at the prompt alone.
        to: the folder to write; default `inspect-NAME-DIGEST` in the current one.
        base_model: where the base model is now; default where the artifact says it was.
        trust_remote_code: whether the base model's own code may run.

    Raises:
        ArtifactError, FingerprintError, BaseModelError: as `attach_folder`.
        AttentionError: where there is nothing to see, or the model does not show it.
        TargetExistsError: where `to` holds anything else.
    """
    artifact = LatentTokens.load(artifact_folder).artifact
    strategy = artifact.config.strategy
    if not strategy.latent_count:
        raise AttentionError(
            f"{artifact_folder} holds strategy {strategy.short_name}, which inserts no latents: "
            "there is nothing to look at; give an artifact of another trial"
        )
    asked = _digest(artifact, prompt, completion, max_new_tokens)
    target = to or Path(f"inspect-{artifact_folder.resolve().name}-{asked}")
    _refuse_others(target, asked)
    lm, _ = attach_folder(artifact_folder, base_model, trust_remote_code=trust_remote_code)
    specials = artifact.add_special_tokens
    row = _encode(lm, prompt, completion, max_new_tokens, add_special_tokens=specials)
    shares = read_attention(lm.frozen, lm.latents, lm.rules, row, strategy.group_sizes)
    if not shares.sites:
        raise AttentionError(
            f"strategy {strategy.short_name} makes no site in these {len(row.ids)} verbal tokens: "
            "give a longer prompt, or more to go on with"
        )
    subject = subject_of(artifact, lm, row)
    inspection = summarise(
        shares, subject, inspection=asked, folder=target, artifact=artifact_folder
    )
    _write(target, shares, subject, inspection)
    return inspection


def _write(target: Path, shares: AttentionShares, subject: Subject, inspection: Inspection) -> None:
    """All three files, each whole or not there."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as made:
        scratch = Path(made)
        write_table(scratch / DATA_FILE, shares, subject)
        draw(scratch / FIGURE_FILE, shares, subject)
        (scratch / SUMMARY_FILE).write_text(inspection.model_dump_json(indent=2) + "\n")
        for name in FILES:
            (scratch / name).replace(target / name)


def print_inspection(console: Console, inspection: Inspection) -> None:
    """The share on the latest site by distance, as a table per group, and where the files are."""
    curves = inspection.latest_by_distance
    for group in dict.fromkeys(curve.group for curve in curves):
        console.print(_table([curve for curve in curves if curve.group == group], inspection))
    print_line(console, f"{', '.join(FILES)} in {inspection.folder}")


def _table(curves: list[Curve], inspection: Inspection) -> Table:
    title = (
        f"{inspection.strategy}: % of attention on the latest site of group {curves[0].group}, "
        "by verbal tokens since"
    )
    distances = [str(distance) for distance in curves[0].at[:_SHOWN_DISTANCES]]
    table = Table("layer", *distances, title=title, title_justify="left")
    for curve in curves:
        table.add_row("mean" if curve.layer == MEAN else str(curve.layer), *_percent(curve.share))
    table.add_row("uniform", *_percent(curves[0].uniform))
    return table


def _percent(shares: list[float]) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares[:_SHOWN_DISTANCES]]


def _encode(
    lm: LatentLM,
    prompt: str,
    completion: str | None,
    max_new_tokens: int,
    *,
    add_special_tokens: bool,
) -> EncodedRow:
    inputs = lm.tokenizer(prompt, add_special_tokens=add_special_tokens, return_tensors="pt")
    query = inputs["input_ids"][0].tolist()
    if not query:
        raise AttentionError(
            "the prompt has no tokens, and the tokenizer adds no BOS: give the prompt a token"
        )
    ids = query
    if completion is not None:
        ids = query + list(lm.tokenizer(completion, add_special_tokens=False)["input_ids"])
    elif max_new_tokens > 0:
        check_context(lm.frozen, len(query) + max_new_tokens)
        ids = lm.generate(**inputs.to(lm.device), max_new_tokens=max_new_tokens, do_sample=False)[
            0
        ].tolist()
    return EncodedRow(np.array(ids, dtype=np.int64), len(query), distance=0)


def _digest(artifact: Artifact, prompt: str, completion: str | None, max_new_tokens: int) -> str:
    """Twelve hex digits for what is asked: the same ones for the same latents and text."""
    strategy = artifact.config.strategy.to_dict()
    asked = [strategy, prompt, completion, max_new_tokens if completion is None else None]
    return hashlib.sha256(json.dumps(asked).encode() + artifact.latents.tobytes()).hexdigest()[:12]


def _refuse_others(target: Path, asked: str) -> None:
    """Raise TargetExistsError for anything but nothing, an empty folder, or this inspection."""
    if target.is_dir():
        names = {path.name for path in target.iterdir()}
        if not names or (names <= set(FILES) and _holds(target, asked)):
            return
    elif not target.exists() and not target.is_symlink():
        return
    raise TargetExistsError(
        f"{target} is in the way: it holds something other than this inspection; choose a folder "
        "that is empty or does not exist"
    )


def _holds(folder: Path, asked: str) -> bool:
    try:
        summary = json.loads((folder / SUMMARY_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("inspection") == asked
