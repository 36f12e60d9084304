"""How an engine uses a CPU's cores: a micro-batch on each, or each operation on all of them.

Processes with the same engine are asked in turn for a few steps; first beside nothing else, then
beside a process that is busy all the time. `lanes` is what engines do. The others cut each
operation: with threads that wait for work by spinning, which is torch's default, or by sleeping
(`OMP_WAIT_POLICY=PASSIVE`, which engines are given for what is not in lanes).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.finding import finding
from benchmarks.setting import ROOT, Setting, parse, run_row
from benchmarks.timing import ratios
from benchmarks.workload import chains, join_trials
from trainable.engine import Engine

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
ARMS = {"spinning": {}, "sleeping": PASSIVE, "lanes": PASSIVE}
TRIALS, BATCH_ROWS, STEPS = 8, 8, 4
_BUSY = "while True: pass"


def main(argv: Sequence[str] = ()) -> None:
    """Measure, print and write; `child ARM` is one of the processes."""
    if list(argv[:1]) == ["child"]:
        _serve(argv[1], parse(argv[2:]))
        return
    run_row("threads", measure, argv)


def measure(setting: Setting) -> list[dict[str, Any]]:
    """All arms, on a free machine and on one that is shared."""
    with contextlib.ExitStack() as stack:
        children = {name: stack.enter_context(_child(setting, name)) for name in ARMS}
        found = _cases("beside nothing else", children, setting)
        stack.enter_context(_process([sys.executable, "-c", _BUSY]))
        return [*found, *_cases("beside one busy process", children, setting)]


def _cases(
    case: str, children: dict[str, subprocess.Popen[str]], setting: Setting
) -> list[dict[str, Any]]:
    spent: dict[str, list[float]] = {name: [] for name in children}
    for repeat in range(setting.repeats + 1):
        for name in children if repeat % 2 else reversed(children):
            seconds = _ask(children[name])
            if repeat:  # the first is the warm-up
                spent[name].append(seconds)
    return [
        finding(f"{one} over {other}, {case}", ratios(spent[one], spent[other]))
        for one, other in (("spinning", "sleeping"), ("spinning", "lanes"), ("sleeping", "lanes"))
    ]


@contextlib.contextmanager
def _process(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, text=True, **options)  # noqa: S603  (our own)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _child(setting: Setting, arm: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.threads", "child", arm]
    command += ["--device", setting.device, "--shape", setting.shape]
    with _process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        | ARMS[arm],
        cwd=ROOT,
    ) as child:
        _ask(child)
        yield child


def _ask(child: subprocess.Popen[str]) -> float:
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        raise RuntimeError("a process of the benchmark ended: see its message above")
    return float(answer)


def _serve(arm: str, setting: Setting) -> None:
    """Take a few steps for each line that is read, and answer with the seconds."""
    base = setting.base()
    engine = Engine(base, lanes=None if arm == "lanes" else 1)
    uids = join_trials(engine, chains(base), TRIALS, BATCH_ROWS)
    for _ in sys.stdin:
        begin = time.perf_counter()
        for _ in range(STEPS):
            engine.step(uids)
        sys.stdout.write(f"{time.perf_counter() - begin}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
