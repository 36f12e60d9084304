"""Ray and Tune around a search: connect, run thin trials, leave all as it was found."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.error import TuneError

from orchestrator.engines.cluster import own_node_resource
from orchestrator.errors import ClusterError, chain
from orchestrator.safety.ray_token import secure_local_ray
from orchestrator.thin_trial import ThinTrial
from orchestrator.tune_adapters import LedgerScheduler, LedgerSearcher, LostTrials
from trainable.errors import LatentuneError

_OBJECT_STORE_BYTES = 256 * 2**20  # reports are kilobytes
_LOST_PROCESS_RETRIES = 3
# Set before Ray starts, unless the user has set them.
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the driver has its own
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the ledger is the memory, Tune's snapshot is none
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def ray_session(folder: Path) -> Iterator[Path]:
    """Connect to RAY_ADDRESS or start a local Ray, and leave it as it was found.

    Args:
        folder: in it, Tune gets a temporary folder: the value of this context.
    """
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    began_here = not ray.is_initialized()
    if began_here:
        local: dict[str, Any] = {}
        if not os.environ.get("RAY_ADDRESS"):
            secure_local_ray()
            local = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        try:
            ray.init(
                namespace="latentune", log_to_driver=False, logging_level=logging.ERROR, **local
            )
        except ConnectionError as error:
            raise ClusterError(
                f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS')!r} cannot be reached: start that Ray, "
                f"or unset RAY_ADDRESS to use one of our own ({str(error).splitlines()[0]})"
            ) from None
    try:
        with tempfile.TemporaryDirectory(prefix="tune-", dir=folder) as scratch:
            yield Path(scratch)
    finally:
        if began_here:
            ray.shutdown()


def run_trials(
    searcher: LedgerSearcher,
    scheduler: LedgerScheduler,
    lost: LostTrials,
    concurrent: int,
    scratch: Path,
    trainable: type[ThinTrial] = ThinTrial,
) -> None:
    """Let Tune run thin trials, `concurrent` at a time, until the searcher has no more.

    They run on this machine alone: their states are saved in the search's folder.

    Raises:
        LatentuneError: what the adapters raise, such as that the ledger cannot be written or that
            another driver took the search over; Tune makes an error of its own of it.
    """
    # Tune misses the result files that it was told not to write.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    logging.getLogger("ray.tune.tune").addFilter(_is_news)
    tuner = tune.Tuner(
        tune.with_resources(trainable, own_node_resource() or {"cpu": 0.01}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(scratch),
            verbose=0,
            callbacks=[lost],
            failure_config=tune.FailureConfig(max_failures=_LOST_PROCESS_RETRIES),
        ),
    )
    try:
        tuner.fit()
        return
    except TuneError as error:
        own = next((one for one in chain(error) if isinstance(one, LatentuneError)), None)
        if own is None:
            raise
    raise own  # out here, where it keeps what it came from


def _is_news(record: logging.LogRecord) -> bool:
    """Not that a full disk had no room for Tune's snapshot: nobody would have read it."""
    return "snapshotting failed" not in record.getMessage()
