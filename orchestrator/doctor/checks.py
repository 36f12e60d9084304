"""The doctor's judgements: from facts to findings, each a function of what was found alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.doctor.facts import Facts, Folder, Gpu
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
    for folder in facts.folders:
        if folder.problem is not None:
            remedy = (
                f"give its user the right to write {folder.path}, or set another "
                f"({folder.variable})"
            )
            yield failed("folders", facts.name, folder.problem, remedy)
        elif folder.is_written:
            yield ok("folders", facts.name, f"{folder.path} can be written")
        else:
            yield ok("folders", facts.name, f"{folder.path} is only read (HF_HUB_OFFLINE)")


def check_disks(facts: Facts) -> Iterator[Finding]:
    """Whether there is room for states, logs and models, on each disk that they go to."""
    by_disk: dict[int, list[Folder]] = {}
    for folder in facts.folders:
        by_disk.setdefault(folder.disk, []).append(folder)
    for folders in by_disk.values():
        free = min(folder.free_bytes for folder in folders)
        detail = f"{free / 2**30:.1f} GiB free for {', '.join(one.path for one in folders)}"
        variables = " or ".join(one.variable for one in folders)
        remedy = f"free space, or put {variables} on another disk"
        if free < DISK_FAILURE_BYTES:
            yield failed("disk", facts.name, detail, remedy)
        elif free < DISK_WARNING_BYTES:
            yield warned("disk", facts.name, detail, remedy)
        else:
            yield ok("disk", facts.name, detail)


def check_gpus(name: str, gpus: Sequence[Gpu]) -> Finding:
    """Whether the GPUs that a machine's torch sees compute."""
    if not gpus:
        return skipped("gpu", name, "none; engines run on the CPU")
    bad = [gpu for gpu in gpus if gpu.error is None or not gpu.error < _GPU_ERROR]
    if bad:
        told = (gpu.problem or f"a product of matrices is off by {gpu.error}" for gpu in bad)
        detail = "; ".join(f"GPU {gpu.name}: {why}" for gpu, why in zip(bad, told, strict=True))
        remedy = (
            "test it (`nvidia-smi`), and take it out of service if it stays so; a driver that is "
            "too old for torch's CUDA fails on every GPU"
        )
        return failed("gpu", name, detail, remedy)
    return ok("gpu", name, f"all {len(gpus)} compute" if len(gpus) > 1 else "1 computes")


def check_node_gpus(
    name: str, promised: int, claimed: int, gpus: Sequence[Gpu] | None, problem: str | None = None
) -> Finding:
    """Whether the GPUs of a node are seen, and compute.

    Args:
        promised: how many Ray says it has.
        claimed: how many of them were free, and asked for.
        gpus: that torch saw there; None where no answer came.
        problem: what came instead.
    """
    if not promised:
        return skipped("gpu", name, "none; engines run on the CPU")
    if not claimed:
        return skipped("gpu", name, f"all {promised} are in use")
    if gpus is None:
        why = problem or "no answer came in time"
        detail = f"{claimed} of {promised} were free, and could not be tried: {why}"
        remedy = "ask again if a search has just taken them; else test them (`nvidia-smi`)"
        return warned("gpu", name, detail, remedy)
    if len(gpus) < claimed:
        remedy = (
            "install a torch with CUDA for the node's driver (`nvidia-smi` shows it) and restart "
            "its Ray; in a container, pass the GPUs through"
        )
        detail = f"Ray gave {claimed} of its {promised}, torch sees {len(gpus) or 'none'}"
        return failed("gpu", name, detail, remedy)
    found = check_gpus(name, gpus)
    if found.outcome != "ok" or claimed == promised:
        return found
    return ok("gpu", name, f"{found.detail}, {promised - claimed} more are in use")


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


def check_answer(node: str, problem: str | None) -> Finding:
    """A node that has joined, and did not say how it is.

    Args:
        problem: what it answered; None where it was silent.
    """
    if problem is None:
        remedy = "see that node's raylet log; restart its Ray, or take it out of the cluster"
        return failed("nodes", node, "it has joined, and does not answer", remedy)
    remedy = "bring the node's image or environment to this machine's versions; see its Ray's log"
    return failed("nodes", node, f"it cannot look at itself: {problem}", remedy)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
