"""The command line: `latentune VERB`. Results go to stdout, all else to stderr.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer
from pydantic import BaseModel
from rich.console import Console
from typer.exceptions import TyperException

from orchestrator.errors import (
    EventLogError,
    LedgerError,
    SearchLockedError,
    SearchNotFoundError,
    TrackingError,
    TrackingUriError,
)
from orchestrator.folders import SearchFolder, all_searches, home_folder
from trainable.errors import LatentuneError, NumericError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
_FAILURES = (TrackingError, EventLogError, LedgerError, NumericError)  # nobody's input was wrong

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Search where latent tokens belong in a frozen language model.",
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]
Name = Annotated[str, typer.Argument(help="The search's name.")]
BasePath = Annotated[str | None, typer.Option(help="Where the base model is now, if it has moved.")]
Format = Annotated[Literal["peft"], typer.Option("--format", help="The other library.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let the base model's own code run.")
]
_err = Console(stderr=True)
_out = Console()


def main() -> None:
    """Run the command line and turn errors into messages and exit codes."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        code = app(standalone_mode=False)
    except TrackingUriError as error:
        _fail(str(error), BAD_INPUT)
    except LatentuneError as error:
        _fail(str(error), FAILED if isinstance(error, _FAILURES) else BAD_INPUT)
    except TyperException as error:  # the command line itself is wrong
        _fail(error.format_message(), BAD_INPUT)
    except OSError as error:  # a full disk, a folder without permission
        _fail(str(error), FAILED)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except typer.Abort as error:  # typer's word for Ctrl-C, and for a question without an answer
        interrupted = isinstance(error.__cause__, KeyboardInterrupt)
        _fail("interrupted" if interrupted else "aborted", INTERRUPTED if interrupted else FAILED)
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
def run(
    search: Annotated[Path, typer.Argument(metavar="SEARCH.yaml", help="The search file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field.")
    ] = None,
) -> None:
    """Run a search, or go on with one that was interrupted."""
    from orchestrator.config import load_search
    from orchestrator.driver import baseline_configs, run
    from orchestrator.progress import SearchProgress
    from orchestrator.tables import print_result

    config = load_search(search, set_ or [])
    total = config.budget.trials + len(baseline_configs()) * config.space.baselines
    with (
        _interruptible() as interrupt,
        SearchProgress(_err, total, config.objective) as progress,
    ):
        result = run(config, watcher=progress, interrupt=interrupt)
    print_result(_out, result)
    if result.state == "interrupted":
        hint = "" if config.budget.time_s is None else " (raise budget.time_s first if it is spent)"
        message = f"stopped before its end; the same command goes on with it{hint}"
        _fail(message, INTERRUPTED if interrupt.is_set() else 0)
    if result.state == "failed":
        raise typer.Exit(FAILED)


@app.command()
def plan(
    search: Annotated[Path, typer.Argument(metavar="SEARCH.yaml", help="The search file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field.")
    ] = None,
    json: Json = False,
) -> None:
    """Show what a search would do: its rows, what delimiters match, what strategies cost."""
    from orchestrator.config import load_search
    from orchestrator.plan import plan_search, print_plan

    found = plan_search(load_search(search, set_ or []))
    if json:
        _print_json(found)
    else:
        print_plan(_out, found)


@app.command()
def status(name: Name, json: Json = False) -> None:
    """Show how a search stands."""
    from orchestrator.config import load_search
    from orchestrator.results import read_result
    from orchestrator.tables import print_status
    from orchestrator.tracking import tracking_uri

    folder = SearchFolder.existing(home_folder(), name)
    uri = tracking_uri(home_folder(), load_search(folder.config).tracking.uri)
    result = read_result(folder, uri)
    if json:
        _print_json(result)
    else:
        print_status(_out, result)


@app.command(name="list")
def list_(json: Json = False) -> None:
    """List the searches under LATENTUNE_HOME."""
    from orchestrator.listing import list_searches, print_list

    listing = list_searches(all_searches(home_folder()))
    if json:
        _print_json(listing)
    else:
        print_list(_out, listing, home_folder())


@app.command()
def stop(
    name: Name,
    trial: Annotated[int | None, typer.Option(help="Stop this trial alone.")] = None,
) -> None:
    """Pause a running search (running it again goes on), or end one of its trials."""
    from orchestrator.control import Requests
    from orchestrator.driver_lock import is_held
    from orchestrator.ledger import read_ledger

    folder = SearchFolder.existing(home_folder(), name)
    if not is_held(folder):
        raise SearchLockedError(f"search {name!r} is not running: there is nothing to stop")
    if trial is None:
        Requests(folder).stop_search()
    else:
        running = [t.number for t in read_ledger(folder.path, name) if t.status == "running"]
        if trial not in running:
            raise SearchNotFoundError(
                f"--trial {trial} is not running in {name!r}; running: "
                f"{', '.join(map(str, running)) or 'none'}"
            )
        Requests(folder).stop_trial(trial)
    _say("asked; the driver answers within seconds: see `latentune status`")


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME[@ALIAS]", help="A search's name.")],
    to: Annotated[Path, typer.Option(help="The folder to write.")],
    version: Annotated[int | None, typer.Option(help="A registered version.")] = None,
) -> None:
    """Fetch a search's registered latents, verified against their digest."""
    from orchestrator.registry import download

    folder = download(name, version=version, to=to, home=home_folder())
    _say(f"pulled {name} to {folder}")


@app.command()
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
    _out.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
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
    if data is None:
        _refuse_options(own | {"--baseline": baseline or None}, "needs DATA, a file with rows")
        from orchestrator.usage import evaluate_folder, print_evaluation

        scores = evaluate_folder(
            folder,
            split,
            rows or 50,
            base_model,
            metrics=metric or [],
            trust_remote_code=trust_remote_code,
        )
        _print_json(scores) if json else print_evaluation(_out, scores)
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
    )
    _print_json(found) if json else print_data_evaluation(_out, found)


@app.command()
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
        _print_json(found)
    else:
        print_inspection(_out, found)


@app.command()
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
    _say(f"wrote {to}: a {format_} adapter, for prompts without specials (see its README.md)")


@app.command(name="import")
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
    _say(f"wrote {to}, from a {format_} adapter")


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI over the searches' runs and registered latents."""
    from orchestrator.ui import serve_ui

    url = serve_ui(home_folder(), host, port, on_ready=lambda url: _say(f"{url}  (Ctrl-C ends it)"))
    _say(url)


@app.command()
def rm(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a search's folder; what is in MLflow stays there."""
    from orchestrator.driver_lock import is_held

    folder = SearchFolder.existing(home_folder(), name)
    if is_held(folder):
        raise SearchLockedError(f"search {name!r} is running: `latentune stop {name}` first")
    if not yes and not typer.confirm(f"Remove {folder.path} and all its trials?"):
        raise typer.Exit(FAILED)
    shutil.rmtree(folder.path)
    _say(f"removed {folder.path}; its runs and registered latents are still in MLflow")


@app.command()
def spaces(
    name: Annotated[str | None, typer.Argument(help="A preset.")] = None, json: Json = False
) -> None:
    """List the preset spaces, or show one: its tree, its size and some samples."""
    from orchestrator.listing import describe_space, list_spaces, print_space, print_spaces

    if name is None:
        listing = list_spaces()
        _print_json(listing) if json else print_spaces(_out, listing)
    else:
        space = describe_space(name)
        _print_json(space) if json else print_space(_out, space)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C once sets the event; twice ends the process as usual."""
    event = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        _err.print("stopping: running trials save their state; Ctrl-C again ends at once")
        event.set()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _refuse_options(options: Mapping[str, object], why: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise typer.BadParameter(f"{given[0]} {why}")


def _print_json(record: BaseModel) -> None:
    sys.stdout.write(record.model_dump_json(indent=2) + "\n")


def _say(text: str) -> None:
    _out.print(text, markup=False, highlight=False, soft_wrap=True)


def _fail(message: str, code: int) -> None:
    _err.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
