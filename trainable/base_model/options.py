"""How a base model is loaded, as plain data, and which ways of loading cannot carry latents.

Knows no torch, so that a search's configuration is checked against the same words before
anything is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from trainable.errors import BaseModelError

DTYPES = ("float32", "bfloat16", "float16", "float64")
ATTENTIONS = ("sdpa", "eager")
SPREADINGS = ("auto", "balanced", "balanced_low_0", "sequential")  # accelerate's words
QUANTIZATIONS = ("bitsandbytes-4bit", "bitsandbytes-8bit")
_PACKED = "it takes repeated position ids for several packed sequences and cuts attention"
_UNTESTED = "it is not tested with repeated position ids"
REFUSED_ATTENTIONS: Mapping[str, str] = MappingProxyType(
    {
        "flash_attention_2": _PACKED,
        "flash_attention_3": _PACKED,
        "flash_attention_4": _PACKED,
        "flex_attention": _UNTESTED,
    }
)
_MODEL_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_DEVICE = re.compile(r"cpu|mps|(cuda|xpu|npu|hpu)(:\d+)?")
DEVICE_MAPS = (
    f"{', '.join(SPREADINGS)}, a device such as cpu, cuda or cuda:1, or a mapping of modules to "
    "devices such as {model.layers.0: 0, model.layers.1: 1}"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What `load_base` may be told beside the model's path.

    Args:
        revision: a branch, tag or commit of a model id.
        dtype: one of `DTYPES`; the type of all weights that are not quantised.
        device: "auto" takes a GPU where there is one.
        device_map: accelerate's "auto" and the like, a device, or module name to device;
            in place of `device`.
        attn_implementation: one of `ATTENTIONS`.
        quantization: one of `QUANTIZATIONS`, or None; 8 bits compute in float16 whatever `dtype`.
        trust_remote_code: whether code in the model's repository may run; needs a `revision`
            that is a full commit, so that only code that someone has seen can run.

    Raises:
        BaseModelError: for a value that is unknown or refused, and for two that exclude each
            other; it names the field.
    """

    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    device_map: str | Mapping[str, str | int] | None = None
    attn_implementation: str = "sdpa"
    quantization: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        _one_of("dtype", self.dtype, DTYPES)
        refuse_implementation(self.attn_implementation, "base_model.attn_implementation")
        _one_of("attn_implementation", self.attn_implementation, ATTENTIONS)
        if self.quantization is not None:
            _one_of("quantization", self.quantization, QUANTIZATIONS)
        if not is_device_map(self.device_map):
            raise BaseModelError(
                f"base_model.device_map={self.device_map!r} is unknown; one of {DEVICE_MAPS}"
            )
        if self.device_map is not None and self.device != "auto":
            raise BaseModelError(
                f"base_model.device={self.device!r} and base_model.device_map="
                f"{self.device_map!r} exclude each other: leave one of them out"
            )
        if self.trust_remote_code and not is_commit(self.revision):
            raise BaseModelError(
                "base_model.trust_remote_code needs base_model.revision to be a full commit, 40 "
                f"hexadecimal digits, got {self.revision!r}: read the code of one commit and pin it"
            )

    def check_code_source(self, path: str, is_local: bool) -> None:
        """Refuse code from a folder: nothing pins it. Raises BaseModelError."""
        if self.trust_remote_code and is_local:
            raise BaseModelError(
                f"base_model.trust_remote_code: {path!r} is a folder, which has no revision that "
                "could pin its code: give the model id and its commit as base_model.revision"
            )

    def check_extras(self) -> None:
        """Refuse options whose packages are not installed here. Raises BaseModelError."""
        if self.quantization is not None:
            _installed("quantization", self.quantization, "quantized", "bitsandbytes", "accelerate")
        if self.device_map is not None:
            _installed("device_map", self.device_map, "accelerate", "accelerate")


def is_commit(revision: object) -> bool:
    """Whether a revision is a full commit hash, which never comes to mean anything else."""
    return isinstance(revision, str) and _COMMIT.fullmatch(revision) is not None


def is_device_map(value: object) -> bool:
    """Whether a value says where a model goes: nothing, a word, a device, or module to device."""
    if isinstance(value, Mapping):
        named = all(isinstance(module, str) for module in value)
        return bool(value) and named and all(map(_is_place, value.values()))
    word = isinstance(value, str) and (value in SPREADINGS or _is_device(value))
    return value is None or word


def _is_place(value: object) -> bool:
    if isinstance(value, str):
        return value == "disk" or _is_device(value)
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_device(name: str) -> bool:
    return _DEVICE.fullmatch(name) is not None


def spreading(device_map: object) -> str | None:
    """The word for spreading over whatever devices there are, if a device map is one."""
    return device_map if isinstance(device_map, str) and device_map in SPREADINGS else None


def can_spread() -> bool:
    """Whether models can be spread over devices here."""
    return find_spec("accelerate") is not None


def is_folder(source: str) -> bool:
    """Whether a source is a folder on this machine, and no model id."""
    return Path(source).is_dir()


def is_model_id(source: str) -> bool:
    """Whether a source that is no folder can be a model id: `name` or `owner/name`."""
    return not is_folder(source) and _MODEL_ID.fullmatch(source) is not None


def refuse_implementation(implementation: str | None, field: str) -> None:
    """Raise BaseModelError for an attention implementation that is known to go wrong."""
    reason = REFUSED_ATTENTIONS.get(implementation or "")
    if reason is not None:
        raise BaseModelError(
            f"{field}={implementation!r} cannot carry latent tokens: {reason}; use `sdpa` or "
            "`eager`"
        )


def _one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise BaseModelError(f"base_model.{name}={value!r} is unknown; one of {', '.join(options)}")


def _installed(field: str, value: object, extra: str, *packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise BaseModelError(
            f"base_model.{field}={value!r} needs {' and '.join(missing)}, not installed here: "
            f"pip install 'latentune[{extra}]'"
        )
