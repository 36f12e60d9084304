"""Run the CPU benchmarks, each in a process of its own: `python -m benchmarks [ROW ...]`.

Without rows, those that have targets; `settings` stands for those that defaults were chosen by.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time

ROWS = (
    "fidelity",
    "fusion",
    "prefix",
    "memory",
    "occupancy",
    "evaluation",
    "limit",
    "scale_out",
    "ladder",
)
SETTINGS = ("threads", "micro_batches", "decoding")


def main() -> int:
    """Run the rows in order, then write the page; the number of those that failed."""
    failed = 0
    asked = sys.argv[1:] or ROWS
    for row in SETTINGS if asked == ["settings"] else asked:
        if importlib.util.find_spec(f"benchmarks.{row}") is None:
            sys.stdout.write(f"{row}: there is no such benchmark\n")
            failed += 1
            continue
        begin = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{row}"], check=False)  # noqa: S603
        failed += done.returncode != 0
        sys.stdout.write(f"{row}: {time.monotonic() - begin:.0f} s\n\n")
        sys.stdout.flush()
    from benchmarks.page import main as write_page

    write_page()
    return failed


if __name__ == "__main__":
    sys.exit(main())
