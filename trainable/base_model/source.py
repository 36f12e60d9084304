"""Where a base model's files are: its commit, configuration, tokenizer and own code."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from trainable.base_model.options import LoadOptions, is_folder, is_model_id
from trainable.errors import BaseModelError
from trainable.fingerprint import code_files, commit_of

BUNDLED = "bundled"
BUNDLED_FOLDER = Path(__file__).parent / "bundled"


def source_of(path: str) -> str:
    """The folder or model id behind a `base_model.path`."""
    return str(BUNDLED_FOLDER) if path == BUNDLED else path


class ModelSource:
    """A model's files, and how transformers shall read them.

    Args:
        path: `base_model.path`, as the user named it.
        options: how the model shall be loaded.

    Raises:
        BaseModelError: if a model id is neither cached nor reachable, or a folder's own code
            shall run.
    """

    def __init__(self, path: str, options: LoadOptions) -> None:
        self.path = path
        self.name = source_of(path)
        self.options = options
        options.check_code_source(path, is_folder(self.name))
        try:
            commit = commit_of(self.name, options.revision)
        except BaseModelError as error:
            raise BaseModelError(f"{error} {self._remedy()}") from error
        # One commit for all files, whatever the name stands for a moment later.
        self.revision = commit or options.revision
        # Trust is never left to transformers' default, which asks the terminal.
        self.reading: dict[str, Any] = {
            "revision": self.revision, "trust_remote_code": options.trust_remote_code,
        }  # fmt: skip

    @cached_property
    def own_code(self) -> bool:
        """Whether code from the repository runs.

        Raises:
            BaseModelError: if it lies in another repository, where nothing pins it.
        """
        return self.options.trust_remote_code and bool(code_files(self.name, self.revision))

    def config(self) -> Any:
        """The configuration. Raises BaseModelError if there is none, or one that says nothing."""
        try:
            return AutoConfig.from_pretrained(self.name, **self.reading)
        except (OSError, ValueError) as error:
            raise BaseModelError(
                f"base_model.path={self.path!r} is no base model: {first_line(error)} "
                f"{self._remedy_of_config()}"
            ) from error

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer. Raises BaseModelError if there is none that gives ids."""
        remedy = "save the model's tokenizer into the same folder"
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.name, **self.reading)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise BaseModelError(
                f"base_model.path={self.path!r} lacks a tokenizer: {remedy} ({first_line(error)})"
            ) from error
        if len(tokenizer) == 0 or not tokenizer("a,1")["input_ids"]:
            raise BaseModelError(
                f"base_model.path={self.path!r} lacks a usable tokenizer: {remedy}"
            )
        return tokenizer

    def _remedy(self) -> str:
        remedy = (
            "Give `bundled`, a folder written by save_pretrained, or the id of a cached or "
            "reachable model"
        )
        if constants.HF_HUB_OFFLINE and is_model_id(self.name):
            remedy += (
                "; HF_HUB_OFFLINE is set, so only what is in the cache (HF_HOME) is read: unset "
                f"it to download, or run `hf download {self.name}` where the hub can be reached "
                "and copy the cache"
            )
        return remedy

    def _remedy_of_config(self) -> str:
        try:
            needs_code = bool(code_files(self.name, self.revision))
        except ValueError:  # nothing that could be read
            needs_code = False
        if not needs_code or self.options.trust_remote_code:
            return self._remedy()
        return (
            "It needs code of its own: read it, then set base_model.trust_remote_code: true and "
            "base_model.revision to the full commit that you have read"
        )


def first_line(error: Exception) -> str:
    """An error of another library in one line, with a full stop."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".") + "."
