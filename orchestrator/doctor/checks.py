"""The doctor's judgements: from facts to findings, each a function of what was found alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.doctor.facts import Facts
from orchestrator.doctor.findings import Finding, failed, ok, skipped, warned
from orchestrator.engines.handshake import differences
from orchestrator.errors import ClusterAccessError
from orchestrator.jobs.access import TOKEN_VARIABLE, given_token, token_file

FLOORS = {
    "python": (3, 11),
    "ray": (2, 59),
    "mlflow": (3, 17),
    "torch": (2, 10),
    "transformers": (5, 17),
}
CLOCK_WARNING_S, CLOCK_FAILURE_S = 5.0, 60.0
DISK_WARNING_BYTES, DISK_FAILURE_BYTES = 10 * 2**30, 2**30
_GPU_ERROR = 0.01  # TF32 is off by a thousandth


def check_floors(where: str, versions: Mapping[str, str]) -> Finding:
    """Whether what is installed is new enough to be safe, and to be what was tested."""
    low = [
        f"{name} {versions.get(name, 'not installed')} (at least {'.'.join(map(str, floor))})"
        for name, floor in FLOORS.items()
        if _numbers(versions.get(name, "")) < floor
    ]
    if low:
        remedy = "install latentune again with its constraints.txt"
        return failed("versions", where, f"too old: {', '.join(low)}", remedy)
    told = ", ".join(f"{name} {versions[name]}" for name in ("latentune", *FLOORS))
    return ok("versions", where, told)


def check_same_versions(client: Facts, node: Facts) -> Finding:
    """Whether a node runs what the client runs; no engine starts on one that does not."""
    found = differences(client.versions, node.versions)
    ours, theirs = client.versions["ray"], node.versions["ray"]
    found += [] if ours == theirs else [f"ray: {theirs} there, {ours} here"]
    if found:
        remedy = (
            "bring the node's image or environment, or this machine's, to the other's versions "
            "and restart the node's Ray; no engine is started there until then"
        )
        return failed("versions", node.name, "; ".join(found), remedy)
    return ok("versions", node.name, "the same as the client's")


def check_clock(node: str, ahead_s: float, round_trip_s: float) -> Finding:
    """Whether a node's clock is the client's, as far as the call's own time lets that show.

    Args:
        ahead_s: of the client's clock, in the middle of the call.
    """
    off_s = max(0.0, abs(ahead_s) - round_trip_s / 2)
    side = "ahead of" if ahead_s > 0 else "behind"
    detail = f"{off_s:.1f} s {side} the client's"
    remedy = "have NTP set the clocks; MLflow sorts runs and points by them"
    if off_s > CLOCK_FAILURE_S:
        return failed("clock", node, detail, remedy)
    if off_s > CLOCK_WARNING_S:
        return warned("clock", node, detail, remedy)
    return ok("clock", node, "the client's, as far as can be told")


def check_folders(facts: Facts) -> Iterator[Finding]:
    """Whether what has to be written can be."""
    for folder, problem in facts.folders.items():
        if problem is None:
            yield ok("folders", facts.name, f"{folder} can be written")
        else:
            remedy = f"give its user the right to write {folder}, or set another (LATENTUNE_HOME)"
            yield failed("folders", facts.name, problem, remedy)


def check_disk(facts: Facts) -> Finding:
    """Whether there is room for states, logs and models."""
    detail = f"{facts.free_bytes / 2**30:.1f} GiB free"
    remedy = "free space, or put LATENTUNE_HOME and HF_HOME on another disk"
    if facts.free_bytes < DISK_FAILURE_BYTES:
        return failed("disk", facts.name, detail, remedy)
    if facts.free_bytes < DISK_WARNING_BYTES:
        return warned("disk", facts.name, detail, remedy)
    return ok("disk", facts.name, detail)


def check_gpu(facts: Facts, promised: int | None = None, *, in_use: bool = False) -> Finding:
    """Whether a machine's GPUs are seen, and compute.

    Args:
        promised: how many Ray says it has; None where no Ray was asked.
        in_use: whether none was free to be tried.
    """
    if in_use:
        return skipped("gpu", facts.name, f"all {promised} are in use")
    remedy = (
        "install a torch with CUDA for the node's driver (`nvidia-smi` shows it) and restart "
        "its Ray; in a container, pass the GPUs through"
    )
    if not facts.gpus and promised:
        return failed("gpu", facts.name, f"Ray has {promised}, torch sees none", remedy)
    if facts.gpu_problem is not None:
        return failed("gpu", facts.name, facts.gpu_problem, remedy)
    if not facts.gpus:
        return skipped("gpu", facts.name, "none; engines run on the CPU")
    if facts.gpu_error is None or not facts.gpu_error < _GPU_ERROR:
        detail = f"a product of matrices is off by {facts.gpu_error}"
        return failed("gpu", facts.name, detail, "take this GPU out of service and test it")
    return ok("gpu", facts.name, f"{facts.gpus} seen, and the first computes")


def check_model(facts: Facts, model: str, *, is_sent: bool = False) -> Finding:
    """Whether the base model can be read there.

    Args:
        is_sent: whether it is a folder of the client's, which engines are sent.
    """
    if is_sent:
        return skipped("model", facts.name, f"{model} is a folder here; it is sent to each node")
    if facts.model is None:
        return ok("model", facts.name, f"{model} can be read")
    remedy = (
        "cache it there (`hf download`, with HF_HOME on a disk of the node's or a shared one), "
        "or give base_model.path a folder of the head's, which is sent to every node"
    )
    return failed("model", facts.name, facts.model, remedy)


def check_token(*, needed: bool) -> Iterator[Finding]:
    """Whether this machine has a token for the cluster that nobody else can read.

    Args:
        needed: whether a cluster is to be spoken to.
    """
    mode = os.environ.get("RAY_AUTH_MODE")
    if needed and mode != "token":
        detail = f"RAY_AUTH_MODE is {mode or 'not set'}"
        remedy = "export RAY_AUTH_MODE=token; clients send no token without it"
        yield failed("token", "client", detail, remedy)
    copy_it = "copy the cluster's token there, with mode 0600"
    try:
        given = given_token()
    except ClusterAccessError as error:
        yield failed("token", "client", str(error), copy_it)
        return
    if given is None and needed:
        detail = f"{token_file()} holds none, and {TOKEN_VARIABLE} is not set"
        yield failed("token", "client", detail, copy_it)
    elif given is None:
        yield skipped("token", "client", "none yet; Ray makes one when it first starts here")
    elif given.is_exposed:
        detail = f"others can read {given.file} (mode {given.mode:04o})"
        yield failed("token", "client", detail, f"chmod 600 {given.file}")
    else:
        where = f"in {given.file}, its owner's alone" if given.file else "in the environment"
        yield ok("token", "client", where)


def check_joined(joined: int, expected: int | None, waited_s: float) -> Finding:
    """Whether as many nodes are there as are meant to be."""
    if expected is None or joined >= expected:
        wanted = "" if expected is None else f" of {expected}"
        return ok("nodes", "cluster", f"{joined}{wanted} joined")
    remedy = (
        "see the head's /tmp/ray/session_latest/logs/monitor* for nodes that could not be "
        "started, and the workers' setup; quotas, images and security groups are the usual causes"
    )
    detail = f"{joined} of {expected} joined within {waited_s:.0f} s"
    return failed("nodes", "cluster", detail, remedy)


def check_answers(silent: Sequence[str]) -> Iterator[Finding]:
    """Nodes that have joined and ran nothing when asked."""
    for node in silent:
        remedy = "see that node's raylet log; restart its Ray, or take it out of the cluster"
        yield failed("nodes", node, "it has joined, and does not answer", remedy)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
