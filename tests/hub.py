"""A model hub without a network: a cache folder, filled by hand.

HF_HUB_OFFLINE, which conftest sets, keeps everything else away.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import dynamic_module_utils


class CachedHub:
    """Repositories at commits, where transformers looks for them."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.cache = folder / "hub"
        modules = folder / "modules"
        modules.mkdir(parents=True)
        patch.setattr(constants, "HF_HUB_CACHE", str(self.cache))
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
        patch.syspath_prepend(modules)

    def snapshot(self, repository: str, commit: str) -> Path:
        """The folder of a repository at a commit."""
        return self._repository(repository) / "snapshots" / commit

    def add(self, repository: str, commit: str, model: Path, *, main: bool = False) -> Path:
        """Copy a model's folder into the cache; `main` makes it the default revision."""
        folder = Path(shutil.copytree(model, self.snapshot(repository, commit)))
        if main:
            refs = self._repository(repository) / "refs"
            refs.mkdir(exist_ok=True)
            (refs / "main").write_text(commit)
        return folder

    def _repository(self, repository: str) -> Path:
        return self.cache / ("models--" + repository.replace("/", "--"))
