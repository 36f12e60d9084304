"""Where the time of a call goes, by kind of operation: what explains a ratio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile

KINDS = {  # the first that is in an operation's name
    "attention": ("attention", "flash", "fmha"),
    "matrix products": ("mm", "linear", "gemm", "cutlass", "nvjet"),
    "copies": ("copy", "cat", "index", "gather", "scatter", "embedding", "clone", "fill", "zero"),
}
REST = "element by element, and the rest"
_GREATEST = 10


@dataclass(frozen=True)
class Profile:
    """Shares of the time that operations took; what passes between them is not counted.

    Args:
        shares: of each kind, the greatest first.
        operations: of the greatest single ones.
    """

    shares: dict[str, float]
    operations: dict[str, float]


def profile_of(call: Callable[[], object], device: str) -> Profile:
    """Profile one call.

    Args:
        device: `cpu` or `cuda`: whose time is meant.
    """
    on_gpu = device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as trace:
        call()
    times: dict[str, float] = {}
    for event in trace.key_averages():
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        times[event.key] = times.get(event.key, 0.0) + spent
    total = sum(times.values()) or 1.0
    shares: dict[str, float] = {}
    for name, spent in times.items():
        shares[_kind(name)] = shares.get(_kind(name), 0.0) + spent / total
    greatest = sorted(times, key=lambda name: -times[name])[:_GREATEST]
    return Profile(
        {kind: round(share, 3) for kind, share in sorted(shares.items(), key=lambda s: -s[1])},
        {name: round(times[name] / total, 3) for name in greatest},
    )


def _kind(name: str) -> str:
    return next(
        (kind for kind, parts in KINDS.items() if any(part in name.lower() for part in parts)),
        REST,
    )
