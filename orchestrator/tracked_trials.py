"""The runs of a search's trials in the store: where latents lie that no version points to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import SearchNotFoundError

if TYPE_CHECKING:  # a second that other verbs need not wait
    from mlflow import MlflowClient
    from mlflow.entities import Run

_NEWEST = ["attributes.start_time DESC"]
_SHOWN = 12


def find_trial(client: MlflowClient, search: str, number: int) -> Run:
    """The run of a trial, of the newest search of that name.

    Raises:
        SearchNotFoundError: where the store has no such search, or no such trial of it.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

    experiments = [found.experiment_id for found in client.search_experiments()]
    parents = client.search_runs(
        experiments, f"tags.search = '{search}'", order_by=_NEWEST, max_results=1
    )
    if not parents:
        raise SearchNotFoundError(
            f"the tracking store has no search {search!r}: `latentune list` shows the searches of "
            "this machine"
        )
    children = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parents[0].info.run_id}'"
    runs = client.search_runs(
        experiments, f"{children} AND tags.trial_uid = '{search}-{number}'", max_results=1
    )
    if runs:
        return runs[0]
    found = client.search_runs(experiments, children, max_results=1000)
    raise SearchNotFoundError(
        f"{search} has no trial {number} in the tracking store; it has {_listed(found, search)}"
    )


def _listed(runs: list[Run], search: str) -> str:
    uids = [run.data.tags.get("trial_uid", "") for run in runs]
    numbers = sorted(
        int(uid.removeprefix(f"{search}-"))
        for uid in uids
        if uid.removeprefix(f"{search}-").isdigit()
    )
    rest = ", …" if len(numbers) > _SHOWN else ""
    return ", ".join(map(str, numbers[:_SHOWN])) + rest if numbers else "none"
