"""A proxy is for other machines: what goes to this one goes there, with its token or password.

`http_proxy` holds for 127.0.0.1 as well, for requests and urllib alike, unless `no_proxy` names it:
the far end of a tunnel would be asked for through the proxy, which then reads the header.
"""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

_VARIABLES = ("no_proxy", "NO_PROXY")  # some read the one first, some the other


def is_local(url: str) -> bool:
    """Whether a URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reach_directly(url: str) -> None:
    """Name a URL's host in `no_proxy`, for this process and its children, if it is this machine.

    Args:
        url: what will be asked. Of another machine, or without any proxy, nothing is changed.
    """
    if not is_local(url) or not getproxies_environment().keys() - {"no"}:
        return
    host = urlsplit(url).hostname or ""
    wanted = [host, f"[{host}]"] if ":" in host else [host]
    given = {name: os.environ.get(name, "") for name in _VARIABLES}
    for name in _VARIABLES:
        text = given[name] or next(filter(None, given.values()), "")
        kept = [part.strip() for part in text.split(",") if part.strip()]
        if "*" not in kept:
            os.environ[name] = ",".join([*kept, *(one for one in wanted if one not in kept)])
