"""The faults that are tried, in a person's words: as tests count them and the page lists them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

GLUED, GLUED_TRIALS = "glued", 6  # the glued search: its name, and how many trials it has


class Fault(StrEnum):
    """What is done to a search of ours (`tests/faults/`)."""

    DRIVER = "driver: SIGKILL at a random instant, run again"
    DRIVER_AGAIN = "driver: one search killed five times in a row"
    DRIVER_STOPPING = "driver: SIGKILL under early stopping and TPE, run again"
    DRIVER_BUDGET = "driver: SIGKILL under a budget of optimiser steps and of time, run again"
    DRIVER_POSTGRES = "driver: SIGKILL, ledger in Postgres, run again"
    DRIVER_FROZEN = "driver: SIGSTOP, a second one started, then SIGCONT"
    DRIVER_OVERTAKEN = "driver: SIGSTOP beyond its lease (Postgres), another goes on, SIGCONT"
    DRIVER_UNLEASED = "driver: SIGSTOP until its engine's lease was over, then SIGCONT"
    DRIVER_CONFIRMING = "driver: SIGKILL while it confirms, run again"
    SECOND_DRIVER = "a second driver while the first runs"
    TWO_SEARCHES = "two searches on one cluster at once"
    CTRL_C = "Ctrl-C once"
    CTRL_C_TWICE = "Ctrl-C twice"
    SIGTERM = "SIGTERM to the driver"
    TRIALS = "thin trials' processes: SIGKILL at a random report"
    TRIALS_BETWEEN = "thin trials' processes: SIGKILL as the next trial begins"
    TRIALS_FROZEN = "thin trials' processes: SIGSTOP for 8 s, then SIGCONT"
    ENGINE = "engine: SIGKILL at a random report"
    ENGINE_FROZEN = "engine: SIGSTOP for 8 s, then SIGCONT"
    ENGINE_GIVEN_UP = "engine: SIGSTOP until it was given up and the search was over, then SIGCONT"
    NODE = "the node of engine and trials removed, another added 5 s later"
    MLFLOW_AWAY = "MLflow: killed for 60 s"
    MLFLOW_GONE = "MLflow: killed, and not back before the search has ended"
    MLFLOW_SILENT = "MLflow: takes connections and never answers"
    POSTGRES = "Postgres: crashed under the ledger, back after 3 s, run again"
    DISK = "disk full at a random report, freed, run again"
    STATE_FLIPPED = "saved states of running trials: a bit flipped"
    STATE_TRUNCATED = "saved states of running trials: truncated"
    STATE_ZEROS = "saved states of running trials: all zeros"
    STATE_EMPTY = "saved states of running trials: empty"
    STATE_MISSING = "saved states of running trials: missing"
    LEDGER_CUT = "ledger (SQLite) cut at every byte of its last record"
    EVENTS_CUT = "event log cut at every byte of its last event"


class GluedFault(StrEnum):
    """What is done to the glued search (`benchmarks/glued_faults.py`)."""

    NONE = "none"
    DRIVER = "driver: SIGKILL at a random time, then Tuner.restore"
    TRIALS = "trials' processes: SIGKILL after a report"
    CTRL_C = "Ctrl-C once, then Tuner.restore"
    SECOND_DRIVER = "a second driver while the first runs"
    MLFLOW_GONE = "MLflow: killed, and not back before the search has ended"
    MLFLOW_AWAY = "MLflow: killed for 15 s, its default retries"
    JOURNAL_CUT = "Optuna's journal cut at every byte of its last record"


def study_url(folder: Path) -> str:
    """Where the glued search's study is."""
    return f"sqlite:///{folder / 'study.db'}"
