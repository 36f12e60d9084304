"""Submit a search: check it here, plan it here, and only then send it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.runtime_env import RuntimeEnv

from orchestrator.config import SearchConfig, load_search
from orchestrator.errors import ClusterAccessError, ConfigError, SearchLockedError, UploadError
from orchestrator.jobs.access import TOKEN_VARIABLE, Access, open_access
from orchestrator.jobs.cluster import Cluster
from orchestrator.jobs.package import write_package
from orchestrator.jobs.records import JobRecord, submission_id
from orchestrator.jobs.sender import package_folders
from orchestrator.jobs.submitted import SubmittedSearch
from orchestrator.opening import check_base_model
from orchestrator.yaml_source import read_yaml
from trainable.base_model.options import is_model_id
from trainable.errors import BaseModelError

logger = logging.getLogger(__name__)

# `-P`: nothing of the package is importable by its name. `exec`: no shell between Ray and us.
_ENTRYPOINT = "exec python -P -m orchestrator.jobs.entry"
STOP_WAIT_S = 120  # from SIGTERM to SIGKILL; Ray's default of 3 s would cut saving short
_OURS = ("working_dir", "py_modules", "excludes")


def submit(
    config: SearchConfig | str | Path,
    *,
    address: str | None = None,
    overrides: Sequence[str] = (),
    paths_on_cluster: bool = False,
    ship_code: bool = False,
    runtime_env: Mapping[str, Any] | str | Path | None = None,
    accept_open_cluster: bool = False,
) -> SubmittedSearch:
    """Start a search on a cluster, or go on with one that was stopped or killed there.

    Args:
        config: the search, or the path of its YAML file.
        address: `http://HEAD:8265`; default RAY_API_SERVER_ADDRESS, then RAY_ADDRESS.
        overrides: `dotted.key=value`, for a YAML file.
        paths_on_cluster: the paths of data and base model are the cluster's; nothing of them is
            checked here, and nothing is uploaded.
        ship_code: send this latentune along, in place of the head's; what it needs must be there.
        runtime_env: more for Ray's runtime environment (`pip`, `uv`, `env_vars`, …), or the path
            of a YAML file with it.
        accept_open_cluster: use a cluster on this machine that asks for no token.

    Raises:
        ConfigError, TaskError, BaseModelError: for a search that cannot be run; nothing is sent.
        UploadError: for files that cannot be sent, or a runtime environment that Ray refuses.
        ClusterError, ClusterAccessError: for a cluster that cannot be reached or used.
        SearchLockedError: if it runs there already.
    """
    if not isinstance(config, SearchConfig):
        config = load_search(config, overrides)
    extra = _extra_environment(runtime_env)
    with tempfile.TemporaryDirectory(prefix="latentune-") as scratch:
        package = Path(scratch)
        write_package(config, package, upload=not paths_on_cluster)
        access = open_access(address, accept_open_cluster=accept_open_cluster)
        environment = _environment(package, extra, ship_code=ship_code)
        _refuse_token(access, package, environment)
        cluster = Cluster(access)
        job = _next_job(cluster, config.name)
        if not paths_on_cluster:
            check_here(config)
        cluster.send(job, _ENTRYPOINT, environment, latentune_search=config.name)
    return SubmittedSearch(cluster, cluster.job(config.name))


def check_here(config: SearchConfig) -> None:
    """Refuse, before anything is sent, what a run would refuse; as far as this machine can tell.

    Raises:
        ConfigError, TaskError, BaseModelError: as `plan_search` does.
    """
    from orchestrator.plan import plan_search  # it imports torch

    try:
        check_base_model(config)
        plan = plan_search(config, calibrate=False)
    except BaseModelError as error:
        if not (is_model_id(config.base_model.path) and "nor a reachable model id" in str(error)):
            raise
        logger.warning("not planned here, the cluster checks it: %s", error)
        return
    for warning in plan.warnings:
        logger.warning("%s", warning)


def _next_job(cluster: Cluster, name: str) -> str:
    """The submission id of a search's next job.

    Raises:
        SearchLockedError: while the last one waits or runs.
    """
    last: JobRecord | None = next((job for job in cluster.jobs() if job.name == name), None)
    if last is not None and last.is_open:
        raise SearchLockedError(
            f"search {name!r} is {last.state} on {cluster.address} as {last.submission_id}: see "
            f"`latentune jobs status {name}`, or end it with `latentune jobs stop {name}`"
        )
    return submission_id(name, 1 if last is None else last.attempt + 1)


def _extra_environment(given: Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    """What a person adds to Ray's runtime environment."""
    if isinstance(given, str | Path):
        read = read_yaml(Path(given))
        if read.problems:
            raise ConfigError(read.problems, str(given))
        given = read.data
    if given is not None and not isinstance(given, Mapping):
        raise UploadError("the runtime environment is no mapping: write for example uv: [einops]")
    extra = {key: value for key, value in (given or {}).items() if value is not None}
    if taken := [key for key in _OURS if key in extra]:
        raise UploadError(
            f"the runtime environment names {', '.join(taken)}, which carry the search itself: "
            "remove that; packages go under pip or uv"
        )
    _check_variables(extra.get("env_vars", {}))
    if unknown := sorted(str(key) for key in extra if key not in RuntimeEnv.known_fields):
        raise UploadError(
            f"the runtime environment names {', '.join(unknown)}, which Ray does not know: "
            f"expected {', '.join(sorted(RuntimeEnv.known_fields - {*_OURS}))}"
        )
    try:
        RuntimeEnv(**extra)
    except (TypeError, ValueError) as error:
        raise UploadError(f"the runtime environment is refused by Ray: {error}") from None
    return extra


def _check_variables(variables: Any) -> None:
    """Refuse variables that are no texts, without showing one: it may be a secret."""
    if not isinstance(variables, Mapping):
        raise UploadError(
            f"env_vars of the runtime environment is a {type(variables).__name__}: write a mapping "
            "of names to texts, for example env_vars: {HF_HUB_OFFLINE: '1'}"
        )
    for name, value in variables.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise UploadError(
                f"env_vars.{name} of the runtime environment is a {type(value).__name__}, and a "
                f"variable is a text: write it in quotes, {name}: '…'"
            )


def _environment(package: Path, extra: dict[str, Any], *, ship_code: bool) -> dict[str, Any]:
    """Ray's runtime environment: the package, what a person added, and time to stop in."""
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **extra.get("env_vars", {})}
    environment = {**extra, "working_dir": str(package), "env_vars": variables}
    if ship_code:
        environment["py_modules"] = [str(folder) for folder in package_folders()]
        environment["excludes"] = ["__pycache__"]
    return environment


def _refuse_token(access: Access, package: Path, environment: Mapping[str, Any]) -> None:
    """Whatever is sent can be read by whoever uses the cluster, so the token is no part of it."""
    texts = [path.read_text() for path in package.iterdir() if path.is_file()]
    texts.append(repr(environment))
    found = access.token is not None and any(access.token in text for text in texts)
    if found or TOKEN_VARIABLE in environment["env_vars"]:
        raise ClusterAccessError(
            "the cluster's token stands in the search file or in the runtime environment, where "
            "it would be kept and shown: remove it; the cluster has its own"
        )
