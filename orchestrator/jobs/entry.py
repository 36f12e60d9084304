"""The job itself, on the head: `python -m orchestrator.jobs.entry` in the package's folder.

Ray stops a job with SIGTERM to all its processes and, some time later, SIGKILL. Here the signal is
blocked in every thread and taken by one that asks the driver to pause: Ray's own handler, which
would end the process between two writes, never runs, and the shipper, which inherits the block,
delivers to the end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

_SIGNALS = {signal.SIGTERM, signal.SIGINT}  # RAY_JOB_STOP_SIGNAL may be either


def main() -> int:
    """Run the search of the current folder; returns the exit code."""
    interrupt = _interrupted_by_signals()
    # Libraries start threads when they are imported; by now these inherit the block.
    from orchestrator.jobs.work import run_job

    return run_job(Path.cwd(), interrupt)


def _interrupted_by_signals() -> threading.Event:
    """An event that the signals set."""
    interrupt = threading.Event()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def wait() -> None:
        signal.sigwait(_SIGNALS)
        os.write(1, b"stopping: running trials save their state\n")
        interrupt.set()

    threading.Thread(target=wait, daemon=True, name="signals").start()
    return interrupt


if __name__ == "__main__":
    sys.exit(main())
