"""Where a process listens: what `ss -ltn` would show of it."""

from __future__ import annotations

import ipaddress

import psutil


def listeners(process: psutil.Process) -> list[str]:
    """The addresses at which a process and its children listen."""
    return [
        one.laddr.ip
        for each in [process, *process.children(recursive=True)]
        for one in each.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    ]


def is_loopback(address: str) -> bool:
    """Also as gRPC writes it: an IPv4 address in IPv6's form."""
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
