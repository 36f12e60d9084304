"""Whose a search's folder is: going on with a stranger's files would let them decide what runs.

A search's configuration may name a person's own metrics, which are code, and its ledger says what
was tried. So neither the home nor the search in it may belong to, or be writable by, others.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from orchestrator.errors import ForeignFolderError


def check_ownership(*paths: Path) -> None:
    """Refuse paths that another user owns or everybody may write; one that is not there is fine.

    What root owns is trusted: root can change anything anyway. A folder that everybody may write
    but in which everyone keeps their own files (the sticky bit of /tmp) is fine as well.

    Raises:
        ForeignFolderError: naming the first one, and what to do.
    """
    if not hasattr(os, "geteuid"):  # no Unix: owners mean something else there
        return
    mine = {os.geteuid(), 0}
    for path in paths:
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        if found.st_uid not in mine:
            raise ForeignFolderError(
                f"{path} belongs to user {found.st_uid}, and you are user {os.geteuid()}: whoever "
                "owns a search's files decides what it runs. Copy them into a LATENTUNE_HOME of "
                "your own, or take them over with `chown -R` if you know them"
            )
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            raise ForeignFolderError(
                f"{path} can be written by every user of this machine "
                f"(mode {stat.S_IMODE(found.st_mode):04o}): whoever writes a search's files "
                f"decides what it runs. `chmod o-w {path}` if you know what is in it"
            )
