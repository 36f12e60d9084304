"""The rows that a GPU changes, each one command of a few minutes, from a plain checkout.

    python -m benchmarks.gpu ROW                                     # Llama-3.2-1B's shape, cuda
    python -m benchmarks.gpu ROW --shape tiny --device cpu --quick   # does it work at all?

They need torch, transformers, pyarrow, safetensors and numpy alone.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

ROWS = ("fidelity", "fusion", "processes", "prefix", "memory", "occupancy", "evaluation", "limit")


def main(argv: Sequence[str] = ()) -> None:
    """Run one row; `--device cuda --shape 1b` unless something else is said."""
    if not argv or argv[0] not in ROWS:
        raise SystemExit(f"usage: python -m benchmarks.gpu ROW ...; rows: {', '.join(ROWS)}")
    row, given = argv[0], list(argv[1:])
    module = importlib.import_module(f"benchmarks.{row}")
    module.main(["--device", "cuda", "--shape", "1b", *given])  # the last of two options wins


if __name__ == "__main__":
    main(sys.argv[1:])
