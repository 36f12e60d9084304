"""The command line: `latentune VERB`. Results go to stdout, all else to stderr.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from typer.exceptions import TyperException

from orchestrator.artifact_verbs import (
    evaluate,
    export,
    generate,
    import_,
    inspect,
    pull,
    register,
    rerun,
)
from orchestrator.console import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    Json,
    Name,
    err,
    exit_code,
    fail,
    out,
    print_json,
    print_line,
    quiet_bars,
    say,
)
from orchestrator.doctor.verb import doctor
from orchestrator.errors import (
    ConfirmationHaltedError,
    SearchLockedError,
    SearchNotFoundError,
)
from orchestrator.folders import SearchFolder, all_searches, home_folder
from orchestrator.jobs.verbs import jobs, submit
from orchestrator.safety.floors import check_floors
from orchestrator.safety.ray_token import keep_ray_at_home
from orchestrator.safety.redaction import safe_logging, tell_crash
from orchestrator.service.verbs import backup, restore
from trainable.errors import LatentuneError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Search where latent tokens belong in a frozen language model.",
)


def main() -> None:
    """Run the command line and turn errors into messages and exit codes."""
    safe_logging(logging.WARNING, "%(levelname)s: %(message)s")
    sys.excepthook = tell_crash
    try:
        _check_arguments(sys.argv[1:])
        check_floors()
        quiet_bars(sys.argv)
        code = app(standalone_mode=False)
    except LatentuneError as error:
        fail(str(error), exit_code(error))
    except TyperException as error:  # the command line itself is wrong
        fail(error.format_message(), BAD_INPUT)
    except OSError as error:  # a full disk, a folder without permission
        fail(str(error), FAILED)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except typer.Abort as error:  # typer's word for Ctrl-C, and for a question without an answer
        interrupted = isinstance(error.__cause__, KeyboardInterrupt)
        fail("interrupted" if interrupted else "aborted", INTERRUPTED if interrupted else FAILED)
    sys.exit(code if isinstance(code, int) else 0)


@app.command()
def run(
    search: Annotated[Path, typer.Argument(metavar="SEARCH.yaml", help="The search file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask after the plan.")] = False,
) -> None:
    """Run a search, or go on with one that was interrupted."""
    from orchestrator.config import load_search
    from orchestrator.driver import run
    from orchestrator.failures import first_cause
    from orchestrator.opening import baseline_configs
    from orchestrator.progress import SearchProgress
    from orchestrator.tables import print_result

    config = load_search(search, set_ or [])
    total = config.budget.trials + len(baseline_configs()) * config.space.baselines
    with (
        _interruptible() as interrupt,
        SearchProgress(err, total, config.objective, None if yes else _ask) as progress,
    ):
        result = run(config, watcher=progress, interrupt=interrupt, say=_tell)
    print_result(out, result)
    if result.state in ("interrupted", "spent"):
        spent = [] if result.spent is None else [n for n in result.spent.over if n != "trials"]
        hint = f" (raise budget.{' and budget.'.join(spent)} first: it is spent)" if spent else ""
        how = "stopped before its end" if result.state == "interrupted" else "ended by its budget"
        message = f"{how}; the same command goes on with it{hint}"
        fail(message, INTERRUPTED if interrupt.is_set() else 0)
    if result.state == "failed":
        fail(first_cause(result.name, result.trials), FAILED)


@app.command()
def extend(
    name: Name,
    trials: Annotated[int | None, typer.Option(min=1, help="So many trials more.")] = None,
    time_s: Annotated[
        float | None, typer.Option("--time-s", min=1, help="So many seconds more.")
    ] = None,
) -> None:
    """Give a search more trials or more time, and go on with it."""
    from orchestrator.config import load_search

    folder = SearchFolder.existing(home_folder(), name)
    budget = load_search(folder.config).budget
    grown = [f"budget.trials={budget.trials + (trials or 0)}"]
    if time_s is not None:
        if budget.time_s is None:
            raise typer.BadParameter(f"{name!r} has no budget.time_s to extend")
        grown += [f"budget.time_s={budget.time_s + time_s}"]
    run(folder.config, grown)


@app.command()
def plan(
    search: Annotated[Path, typer.Argument(metavar="SEARCH.yaml", help="The search file.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field.")
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate/--no-calibrate", help="Load the model and time a few steps, or do not."
        ),
    ] = True,
    json: Json = False,
) -> None:
    """Show what a search would do and cost: rows, delimiters, strategies, tokens, time."""
    from orchestrator.config import load_search
    from orchestrator.plan import plan_search
    from orchestrator.plan_tables import print_plan

    found = plan_search(load_search(search, set_ or []), calibrate=calibrate)
    if json:
        print_json(found)
    else:
        print_plan(out, found)


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
        print_json(result)
    else:
        print_status(out, result)


@app.command(name="list")
def list_(json: Json = False) -> None:
    """List the searches under LATENTUNE_HOME."""
    from orchestrator.listing import list_searches, print_list

    listing = list_searches(all_searches(home_folder()))
    if json:
        print_json(listing)
    else:
        print_list(out, listing, home_folder())


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
    say("asked; the driver answers within seconds: see `latentune status`")


@app.command()
def confirm(
    name: Name,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field of `confirm`."),
    ] = None,
    json: Json = False,
) -> None:
    """Train the best again with fresh seeds, beside controls, and judge them on test splits."""
    keep_ray_at_home()
    from orchestrator.confirmation import confirm
    from orchestrator.confirmation_tables import print_confirmation

    with _interruptible() as interrupt:
        try:
            record = confirm(name, set_ or [], interrupt=interrupt, say=_tell)
        except ConfirmationHaltedError:
            fail("stopped before its end; the same command goes on with it", INTERRUPTED)
            return
    if json:
        print_json(record)
    else:
        print_confirmation(out, record)


@app.command()
def report(
    name: Name,
    to: Annotated[
        Path | None,
        typer.Option(help="The .html file to write, or the .md summary; the other stands beside."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    attention: Annotated[
        bool | None,
        typer.Option(
            "--attention/--no-attention",
            help="The winner's attention picture; default where the base model is small.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Write why the winner won, as one HTML page that needs no network, and in Markdown."""
    from orchestrator.config import load_search
    from orchestrator.report.writing import write_report
    from orchestrator.tracking import tracking_uri

    folder = SearchFolder.existing(home_folder(), name)
    written = write_report(
        folder,
        tracking_uri(home_folder(), load_search(folder.config).tracking.uri),
        page=to,
        attention="small" if attention is None else "always" if attention else "never",
    )
    if json:
        print_json(written)
    else:
        say(f"wrote {written.page} and {written.summary}")
    if open_:
        typer.launch(Path(written.page).absolute().as_uri())


@app.command()
def sync(
    name: Name,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", min=1, help="How long to try, in seconds.")
    ] = 120.0,
    json: Json = False,
) -> None:
    """Deliver to MLflow what it lacks of a search: after an outage, or a driver's death."""
    from orchestrator.shipping.sync import print_sync, sync

    found = sync(name, home=home_folder(), timeout_s=timeout_s)
    print_json(found) if json else print_sync(out, found)
    if found.pending:
        raise typer.Exit(FAILED)


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI over the searches' runs and registered latents."""
    from orchestrator.ui import serve_ui

    url = serve_ui(home_folder(), host, port, on_ready=lambda url: say(f"{url}  (Ctrl-C ends it)"))
    say(url)


@app.command()
def rm(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a search's folder; what is in MLflow stays there."""
    from orchestrator.driver_lock import is_held
    from orchestrator.study.owner import forget_search

    folder = SearchFolder.existing(home_folder(), name)
    if is_held(folder):
        raise SearchLockedError(f"search {name!r} is running: `latentune stop {name}` first")
    if not yes and not typer.confirm(f"Remove {folder.path} and all its trials?"):
        raise typer.Exit(FAILED)
    forget_search(folder.path, name)
    shutil.rmtree(folder.path)
    say(f"removed {folder.path}; its runs and registered latents are still in MLflow")


@app.command()
def spaces(
    name: Annotated[str | None, typer.Argument(help="A preset.")] = None, json: Json = False
) -> None:
    """List the preset spaces, or show one: its tree, its size and some samples."""
    from orchestrator.listing import describe_space, list_spaces, print_space, print_spaces

    if name is None:
        listing = list_spaces()
        print_json(listing) if json else print_spaces(out, listing)
    else:
        space = describe_space(name)
        print_json(space) if json else print_space(out, space)


for verb in (pull, register, generate, evaluate, inspect, export, rerun, doctor):
    app.command()(verb)
for other in (submit, backup, restore):
    app.command()(other)
app.command(name="import")(import_)
app.add_typer(jobs, name="jobs")


def _check_arguments(arguments: Sequence[str]) -> None:
    """Refuse what no text can be made of: no path, name or prompt of ours is such."""
    for argument in arguments:
        if "\0" in argument or any("\ud800" <= c <= "\udfff" for c in argument):
            raise typer.BadParameter(f"{argument!r} is no valid UTF-8 text")


def _tell(line: str) -> None:
    print_line(err, line)


def _ask() -> None:
    """Ask at a terminal whether to go on; elsewhere nobody could answer."""
    if sys.stdin.isatty() and not typer.confirm("Go on?", default=True, err=True):
        raise typer.Exit(0)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C, or SIGTERM, once sets the event; twice ends the process as usual."""
    event = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_interrupt(_: int, __: FrameType | None) -> None:
        restore()
        err.print("stopping: running trials save their state; Ctrl-C again ends at once")
        event.set()

    for number in before:
        signal.signal(number, on_interrupt)
    try:
        yield event
    finally:
        restore()
