"""The verbs for what a search hands over: `latentune pull`, `generate`, `evaluate` and so on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.console import (
    FAILED,
    BasePath,
    Format,
    Json,
    Name,
    TrustCode,
    out,
    print_json,
    print_line,
    say,
)
from orchestrator.folders import home_folder


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|@v3|@trial-7]", help="A search.")],
    to: Annotated[Path, typer.Option(help="The folder to write.")],
    version: Annotated[int | None, typer.Option(help="A registered version.")] = None,
    trial: Annotated[int | None, typer.Option(help="A trial, registered or not.")] = None,
) -> None:
    """Fetch a search's registered latents, verified against their digest."""
    from orchestrator.choice import choose
    from orchestrator.registry import download

    folder = download(name, version=version, trial=trial, to=to, home=home_folder())
    say(f"pulled {choose(name, version=version, trial=trial)} to {folder}")


def register(
    name: Name,
    trial: Annotated[int, typer.Option(min=0, help="Whose latents.")],
    alias: Annotated[
        str | None, typer.Option(help="Move this alias to them, for example champion.")
    ] = None,
    json: Json = False,
) -> None:
    """Register any trial's latents as a version, so that it can be chosen in MLflow."""
    from orchestrator.registering import register_trial

    made = register_trial(name, trial, alias=alias, home=home_folder())
    if json:
        print_json(made)
        return
    moved = "" if made.alias is None else f"; {made.alias} is now this version"
    say(f"{made.name} version {made.version} is {made.trial_uid}, {made.strategy}{moved}")
    say(f"latentune pull {made.name}@v{made.version} --to DIR")


def generate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A pulled artifact folder.")],
    prompt: Annotated[str, typer.Argument(help="What the model goes on from.")],
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="At most; it ends where the base model's context does, too.")
    ] = 64,
    base_model: BasePath = None,
    trust_remote_code: TrustCode = False,
) -> None:
    """Let the base model go on from a prompt, with the latents in place."""
    from orchestrator.usage import generate_text

    text = generate_text(
        folder, prompt, max_new_tokens, base_model, trust_remote_code=trust_remote_code
    )
    print_line(out, text)


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A pulled artifact folder.")],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA", help="JSONL or Parquet with prompt and completion, or messages."
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="The folder for predictions.parquet; default this one.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(help="module:function, called with answer=, reference=, prompt=."),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of an answer; default the longest reference + 16, within the context."
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Answers decoded together.")] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Also score the frozen model alone.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier predictions.parquet.")
    ] = False,
    split: Annotated[
        list[str] | None, typer.Option(help="train, val_id, val_ood, test_id or test_ood.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="At most so many rows per distance; default 50.")
    ] = None,
    base_model: BasePath = None,
    trust_remote_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Score pulled latents by free-running greedy decoding, on DATA or on their task's splits."""
    own = {"--to": to, "--max-new-tokens": max_new_tokens, "--batch": batch}
    own |= {"--baseline": baseline or None, "--overwrite": overwrite or None}
    if data is None:
        _refuse_options(own, "needs DATA, a file with rows")
        from orchestrator.usage import evaluate_folder, print_evaluation

        scores = evaluate_folder(
            folder,
            split,
            rows or 50,
            base_model,
            metrics=metric or [],
            trust_remote_code=trust_remote_code,
        )
        print_json(scores) if json else print_evaluation(out, scores)
        return
    _refuse_options({"--split": split, "--rows": rows}, "is for the task's own rows, not for DATA")
    from orchestrator.usage import evaluate_data, print_data_evaluation

    found = evaluate_data(
        folder,
        data,
        to=to or Path(),
        metrics=metric or [],
        max_new_tokens=max_new_tokens,
        rows_at_once=batch or 64,
        baseline=baseline,
        base_model=base_model,
        trust_remote_code=trust_remote_code,
        overwrite=overwrite,
    )
    print_json(found) if json else print_data_evaluation(out, found)


def inspect(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A pulled artifact folder.")],
    prompt: Annotated[str, typer.Argument(help="What the model goes on from.")],
    completion: Annotated[
        str | None, typer.Option(help="What comes behind it; default: what the model makes of it.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=0)] = 64,
    to: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    base_model: BasePath = None,
    trust_remote_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Show what share of its attention each token pays to each group of latents."""
    from orchestrator.inspection import inspect_folder, print_inspection

    found = inspect_folder(
        folder,
        prompt,
        completion=completion,
        max_new_tokens=max_new_tokens,
        to=to,
        base_model=base_model,
        trust_remote_code=trust_remote_code,
    )
    if json:
        print_json(found)
    else:
        print_inspection(out, found)


def rerun(
    name: Name,
    trial: Annotated[int, typer.Option(help="The trial's number.")],
    latents_tolerance: Annotated[
        float | None,
        typer.Option(min=0.0, help="Of the latents, relative; default 0.02, or 0: deterministic."),
    ] = None,
    score_tolerance: Annotated[
        float | None, typer.Option(min=0.0, help="Of each score; default 0.05, or 0.")
    ] = None,
    json: Json = False,
) -> None:
    """Train one trial of a search again and compare; exit code 1 where it is not the same."""
    from orchestrator.config import load_search
    from orchestrator.folders import SearchFolder
    from orchestrator.rerun import Tolerance, default_tolerance, print_rerun, rerun_trial

    home = home_folder()
    default = default_tolerance(load_search(SearchFolder.existing(home, name).config))
    tolerance = Tolerance(
        latents=default.latents if latents_tolerance is None else latents_tolerance,
        scores=default.scores if score_tolerance is None else score_tolerance,
    )
    found = rerun_trial(home, name, trial, tolerance)
    print_json(found) if json else print_rerun(out, found)
    if not found.within:
        raise typer.Exit(FAILED)


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A pulled artifact folder.")],
    to: Annotated[Path, typer.Option(help="The folder to write.")],
    format_: Format = "peft",
    base_model: BasePath = None,
    trust_remote_code: TrustCode = False,
) -> None:
    """Write latents at the start as a PEFT prompt-tuning adapter."""
    from orchestrator.interchange import export_peft

    export_peft(folder, to, base_model, trust_remote_code=trust_remote_code)
    say(f"wrote {to}: a {format_} adapter, for prompts without specials (see its README.md)")


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A PEFT adapter folder.")],
    base_model: Annotated[str, typer.Option(help="The base model that it was trained on.")],
    to: Annotated[Path, typer.Option(help="The artifact folder to write.")],
    format_: Format = "peft",
    revision: Annotated[str | None, typer.Option(help="The base model's revision.")] = None,
    dtype: Annotated[str, typer.Option(help="The base model's dtype.")] = "float32",
    attn_implementation: Annotated[
        str, typer.Option(help="The base model's attention, sdpa or eager.")
    ] = "sdpa",
    renamed_base: Annotated[
        bool, typer.Option("--renamed-base", help="The adapter may name its base model otherwise.")
    ] = False,
) -> None:
    """Turn a PEFT prompt-tuning adapter into an artifact folder."""
    from orchestrator.interchange import import_peft

    import_peft(
        folder,
        to,
        base_model,
        revision,
        dtype,
        attn_implementation=attn_implementation,
        renamed_base=renamed_base,
    )
    say(f"wrote {to}, from a {format_} adapter")


def _refuse_options(options: Mapping[str, object], why: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise typer.BadParameter(f"{given[0]} {why}")
