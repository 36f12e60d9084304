"""Which base model latents belong to, told by content and not by name.

The base-model fingerprint is a SHA-256 over the configuration (without dtype,
quantisation and the names of versions), the hashes of the weight files, and those of the
model's own code where it runs any; the tokenizer has a hash of its own. Latents trained on
one model are noise to any other, so attaching them compares fingerprints.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.dynamic_module_utils import get_relative_imports
from transformers.utils.hub import cached_file

from trainable.errors import BaseModelError

_WEIGHT_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# Fields that do not change what the model computes, or that a reader may change at loading.
_IGNORED_FIELDS = frozenset(
    {
        "_name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype",
        "quantization_config", "use_cache", "architectures", "auto_map",
    }
)  # fmt: skip
_NAMING_CODE = ("config.json", "tokenizer_config.json")  # in their `auto_map`
_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})/config\.json$")
_HUB_BLOB = re.compile(r"[0-9a-f]{64}")


def model_fingerprint(source: str, revision: str | None, *, own_code: bool = False) -> str:
    """Hash a base model's configuration and weight files.

    Args:
        source: a folder or a model id whose files are cached.
        revision: a branch, tag or commit of the model id, or None.
        own_code: whether the model runs code of its own, which is then hashed as well.

    Returns:
        64 hexadecimal digits.

    Raises:
        BaseModelError: if the configuration or the weights cannot be found.
    """
    config = _json(_required(source, "config.json", revision))
    kept = {key: value for key, value in config.items() if key not in _IGNORED_FIELDS}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for path in _weight_files(source, revision):
        digest.update(f"{path.name} {_file_hash(path)}\n".encode())
    for name in code_files(source, revision) if own_code else ():
        digest.update(f"{name} {_file_hash(_required(source, name, revision))}\n".encode())
    return digest.hexdigest()


def code_files(source: str, revision: str | None) -> list[str]:
    """The Python files that a model's configuration and tokenizer name, and what they import.

    Returns:
        Names within the repository, sorted; none for a model without code of its own.

    Raises:
        BaseModelError: if the code lies in another repository, where no revision of this one
            pins it.
    """
    todo = [name for file in _NAMING_CODE for name in _named_code(source, file, revision)]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        path = None if name in found else _find(source, name, revision)
        if path is not None:
            found.add(name)
            folder = name.rpartition("/")[0]
            imports = (each.replace(".", "/") + ".py" for each in get_relative_imports(path))
            todo += [f"{folder}/{each}" if folder else each for each in imports]
    return sorted(found)


def commit_of(source: str, revision: str | None) -> str | None:
    """The commit behind a model id's revision, told by where its files lie; None for a folder.

    transformers no longer notes it in a model's configuration.

    Raises:
        BaseModelError: if the source is neither a folder nor a reachable model id.
    """
    path = _find(source, "config.json", revision)
    found = None if path is None else _SNAPSHOT.search(path.as_posix())
    return None if found is None else found[1]


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash the vocabulary and a fixed text's ids: two tokenizers that agree on both agree."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    probe = tokenizer("44@47=83, the Quick\nbrown fox; 3.14 (né)")["input_ids"]
    return hashlib.sha256(json.dumps([vocabulary, probe]).encode()).hexdigest()


def _weight_files(source: str, revision: str | None) -> list[Path]:
    for name in _WEIGHT_INDEXES:
        index = _find(source, name, revision)
        if index is not None:
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            return [_required(source, shard, revision) for shard in shards]
    for name in _WEIGHT_FILES:
        single = _find(source, name, revision)
        if single is not None:
            return [single]
    raise BaseModelError(
        f"base_model.path={source!r} has no weight files ({', '.join(_WEIGHT_FILES)}): "
        "give a folder or model id that holds the trained model"
    )


def _named_code(source: str, file: str, revision: str | None) -> Iterator[str]:
    path = _find(source, file, revision)
    classes = {} if path is None else _json(path).get("auto_map") or {}
    for value in classes.values() if isinstance(classes, dict) else classes:
        for reference in value if isinstance(value, list) else [value]:
            repository, _, name = (reference or "").rpartition("--")
            if repository and repository != source:
                raise BaseModelError(
                    f"base_model.path={source!r} takes its code from another repository, "
                    f"{repository!r}, which base_model.revision does not pin: give a model that "
                    "holds its own code"
                )
            if name:
                yield name.partition(".")[0] + ".py"


def _json(path: Path) -> Mapping[str, Any]:
    data = json.loads(path.read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {}


def _required(source: str, name: str, revision: str | None) -> Path:
    path = _find(source, name, revision)
    if path is None:
        raise BaseModelError(
            f"base_model.path={source!r} has no {name}: give a folder written by "
            "save_pretrained, or the id of a cached or reachable model"
        )
    return path


def _find(source: str, name: str, revision: str | None) -> Path | None:
    options: dict[str, Any] = {"_raise_exceptions_for_missing_entries": False}
    try:
        found = cached_file(source, name, revision=revision, **options)
    except OSError as error:
        raise BaseModelError(
            f"base_model.path={source!r} is neither a model folder nor a reachable model id: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return None if found is None else Path(found)


def _file_hash(path: Path) -> str:
    blob = path.resolve().name  # the hub's cache names large files by their SHA-256
    if path.is_symlink() and _HUB_BLOB.fullmatch(blob):
        return blob
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
