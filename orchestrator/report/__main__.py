"""Write the report of a search's folder: what a driver starts when the search ends."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from orchestrator.folders import SearchFolder
from orchestrator.report.writing import write_report
from orchestrator.safety.redaction import safe_logging


def main() -> int:
    """Run as a process of its own. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.report", description=__doc__)
    parser.add_argument("search_dir", type=Path)
    parser.add_argument("--state", required=True)
    parser.add_argument("--tracking-uri", required=True)
    options = parser.parse_args()
    safe_logging(logging.INFO, "%(asctime)s %(levelname)s %(message)s")
    write_report(SearchFolder(options.search_dir), options.tracking_uri, state=options.state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
