"""Ray answers those alone who know its token, and the token is where its owner alone can read it.

Ray 2.60 writes its token file for all users of the machine to read; here it is made before Ray
would, and an open one is closed. On Linux it listens on an address that other machines reach;
elsewhere on 127.0.0.1, which one variable asks for here as well.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
import sys
from pathlib import Path

logger = logging.getLogger(__name__)

MODE_VARIABLE = "RAY_AUTH_MODE"
NODES_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # Linux reads it, too
TOKEN_VARIABLE, PATH_VARIABLE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def keep_ray_at_home() -> None:
    """Before Ray is imported: a Ray of our own listens on 127.0.0.1 alone.

    Ray reads this once, when it is imported; a cluster that RAY_ADDRESS names must be reachable
    as it is.
    """
    if "ray" not in sys.modules and not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault(NODES_VARIABLE, "0")


def secure_local_ray() -> None:
    """Before a Ray of our own starts: a token file of mode 0600.

    Token mode itself is Ray's default for a local Ray from 2.59 on, our floor; to set it here, once
    Ray is imported, would reach Ray's processes and not this one. A RAY_AUTH_MODE that the user has
    set stands; one that is `disabled` is warned of.
    """
    mode = os.environ.get(MODE_VARIABLE, "token")
    if mode.lower() != "token":
        logger.warning(
            "%s=%s: anybody who reaches this machine's Ray can run code as you; unset it",
            MODE_VARIABLE,
            mode,
        )
        return
    if not os.environ.get(TOKEN_VARIABLE):
        close_token_file(token_path())


def token_path() -> Path:
    """Where Ray looks for its token."""
    given = os.environ.get(PATH_VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".ray" / "auth_token"


def close_token_file(path: Path) -> None:
    """Make the token file, or take it from the eyes of others if it is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
        return
    with os.fdopen(made, "w") as file:
        file.write(secrets.token_hex(32))
