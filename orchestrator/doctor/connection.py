"""A connection to a cluster's Ray, or soon the reason why there is none.

`ray.init` on an address where nothing answers tries for over ten minutes: the port is asked
first, and Ray tries once.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import ray
from ray._private import services
from ray.exceptions import RayError

from orchestrator.environment import variable_set
from orchestrator.errors import ClusterError

_PORT_ANSWERS_S = 5.0
_POLL_S = 1.0
_TRIES = "RAY_gcs_server_port_wait_time_s"  # each takes half a minute where a port is silent


@contextmanager
def connected(address: str, deadline_s: float = 0.0) -> Iterator[None]:
    """A connection to a cluster, for as long as this lasts.

    Args:
        deadline_s: how long its port may take to be there. What answers there and is no Ray
            costs half a minute more.

    Raises:
        ClusterError: if there is none to be had.
    """
    try:
        if address != "local":
            wait_for_port(*host_and_port(address), deadline_s)
        with variable_set(_TRIES, "1"):  # it would ask twenty times
            ray.init(
                address=address,
                namespace="latentune",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except ClusterError:
        raise
    except (OSError, RuntimeError, RayError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ClusterError(lines[0]) from error
    try:
        yield
    finally:
        ray.shutdown()


def host_and_port(address: str) -> tuple[str, int]:
    """Where an address leads.

    Raises:
        ValueError: if it is none.
        OSError: if no Ray runs here (`auto`), or its name is unknown.
    """
    if "://" in address:
        parts = urlsplit(address)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"{address!r} has no host and port")
        return parts.hostname, parts.port
    found = services.canonicalize_bootstrap_address(address)
    host, _, port = (found or address).rpartition(":")
    return host.strip("[]"), int(port)


def wait_for_port(
    host: str,
    port: int,
    deadline_s: float,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once a port takes connections.

    Raises:
        ClusterError: if it does not by the deadline; it is asked at least once.
    """
    began = now()
    while True:
        try:
            with socket.create_connection((host, port), timeout=_PORT_ANSWERS_S):
                return
        except OSError as error:
            if now() - began >= deadline_s:
                reason = error.strerror or str(error)
                raise ClusterError(f"nothing answers at {host}:{port} ({reason})") from None
        sleep(_POLL_S)
