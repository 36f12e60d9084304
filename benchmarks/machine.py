"""The facts of a machine, and of the code, without which a number means nothing."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
CODE = ("trainable", "search_spaces", "orchestrator", "benchmarks/*.py", "constraints.txt")


def facts() -> dict[str, Any]:
    """Processor, cores, versions, and the accelerator where there is one."""
    # What only reads stored numbers does without them.
    import torch
    import transformers

    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": accelerator,
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **commit(Path(__file__).parent.parent),
    }


def commit(root: Path) -> dict[str, Any]:
    """What code is measured.

    Returns:
        `commit`, and whether its code is changed or added to (`dirty`); None for both where there
        is no git to ask.
    """
    try:
        found = _git(root, "rev-parse", "--short=10", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--", *CODE))
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": found, "dirty": dirty}


def write(name: str, rows: Sequence[dict[str, Any]], machine: dict[str, Any]) -> Path:
    """Write a benchmark's rows to `results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine, "rows": list(rows)}, indent=1) + "\n")
    return path


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603  (fixed arguments)
        ["git", "-C", str(root), *arguments],  # noqa: S607  (the one of the person's PATH)
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
