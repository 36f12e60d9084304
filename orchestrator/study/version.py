"""Which form a ledger is in. What an older one lacks is filled in; a newer one is refused.

version 1    has no version: reports and ends are several writes each, in no recorded order
version 2    whole transitions, the order of the reports, failure kinds
"""

from __future__ import annotations

import optuna

from orchestrator.errors import LedgerError

LEDGER_VERSION = 2
_ATTRIBUTE = "ledger_version"


def check_version(study: optuna.Study) -> None:
    """Refuse a ledger that a newer version wrote, or whose version is none.

    Raises:
        LedgerError: with the remedy.
    """
    found = study.user_attrs.get(_ATTRIBUTE, 1)
    if type(found) is not int or not 1 <= found <= LEDGER_VERSION:
        raise LedgerError(
            f"the ledger of search {study.study_name!r} has version {found!r}, and this "
            f"latentune knows 1 to {LEDGER_VERSION}: install the version that wrote it "
            "(reproduce.json in the search's folder names it), or give the search another name"
        )


def mark_version(study: optuna.Study) -> None:
    """Note that a ledger is written in the present form from now on."""
    if study.user_attrs.get(_ATTRIBUTE) != LEDGER_VERSION:
        study.set_user_attr(_ATTRIBUTE, LEDGER_VERSION)
