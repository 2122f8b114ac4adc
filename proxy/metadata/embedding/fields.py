"""The fields that are embedded in a generated image, and their JSON."""

from __future__ import annotations

import json
import math
import numbers
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Self

UNKNOWN = "unknown"
_MAX_BITS = 1024
"""Of an integer: as many as fit into a floating-point number."""
_QUERY = re.compile(r"\?|%3f|[#&;](?=[^#&;=]*=)", re.IGNORECASE)
"""Begins the parameters of an address; they may contain an access key."""
_HOST = re.compile(r"[\w-]+(?:\.[\w-]+)+(?::\d+)?/")
"""Begins an address without a scheme."""
_USER_INFO = re.compile(r"[^\s@:]+:[^\s@:]+@(?!sha256:)")
_REMOTE = re.compile(r"[^\s@:]+@(?!sha256:)[^\s@:]+:")
"""User and host as for ssh, before the path."""
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True)
class ImageMetadataEmbedding:
    """The configuration that generated an image. None is a value that is not known.

    Numbers of other libraries, such as NumPy's, become numbers of Python.

    Raises:
        ValueError: a value has the wrong type.
    """

    generation_id: str
    """Usually of `create_generation_id`."""
    generation_timestamp: str
    """ISO 8601; a time without an offset is UTC."""
    prompt: str
    negative_prompt: str
    seed: int | None
    steps: int | None
    cfg_scale: float | None
    width: int | None
    height: int | None
    sampler: str | None
    scheduler: str | None = None
    clip_skip: int | None = None
    base_model_id: str = UNKNOWN
    base_model_architecture: str = UNKNOWN
    vae_model: str | None = None
    loras_used: Sequence[Mapping[str, Any]] = ()
    """``{"name": str, "weight": float}`` each; other keys are dropped."""
    generation_time_seconds: float | None = None
    peak_vram_gb: float | None = None
    pipeline_type: str = UNKNOWN
    pipeline_version: str = UNKNOWN

    def __post_init__(self) -> None:
        """Check the types."""
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))
        if not self.generation_id:
            raise ValueError("generation_id is empty. Use create_generation_id().")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as values of JSON."""
        return {**asdict(self), "loras_used": [dict(one) for one in self.loras_used]}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the fields as JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the metadata of a dictionary; unknown keys are ignored.

        Raises:
            ValueError: a value is missing or has the wrong type.
        """
        if not isinstance(data, Mapping):
            raise wrong_type("metadata", "an object", data)
        known = fields(cls)
        missing = [one.name for one in known if one.default is MISSING and one.name not in data]
        if missing:
            raise ValueError(f"missing fields: {', '.join(missing)}")
        return cls(**{one.name: data[one.name] for one in known if one.name in data})

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """As `from_dict`, for JSON.

        Raises:
            ValueError: it is not JSON, a value is missing, or a value has the wrong type.
        """
        try:
            data = json.loads(text)
        except RecursionError:
            raise ValueError("JSON is nested too deeply") from None
        return cls.from_dict(data)

    def without_folders(self) -> Self:
        """Return a copy that names models by their file names, as folders may name a user."""
        return replace(
            self,
            base_model_id=_file_name(self.base_model_id),
            vae_model=None if self.vae_model is None else _file_name(self.vae_model),
            loras_used=[{**one, "name": _file_name(one["name"])} for one in self.loras_used],
        )


def create_generation_id() -> str:
    """Return a new random UUID (version 4)."""
    return str(uuid.uuid4())


def create_timestamp() -> str:
    """Return the present time in UTC as ISO 8601."""
    return datetime.now(UTC).isoformat()


def _file_name(model: str) -> str:
    path = _QUERY.split(model, maxsplit=1)[0]
    scheme, _, address = path.partition("://")
    # One letter is a drive of Windows.
    if address and len(scheme) > 1:
        path = address.partition("/")[2]
    elif path.endswith("://"):
        return UNKNOWN
    # A name may contain this character ("dream #2"), an address only before its fragment.
    if address or _HOST.match(path):
        path = path.partition("#")[0]
    name = re.split(r"[/\\]", path.rstrip("/\\"))[-1]
    if _USER_INFO.match(name):
        return UNKNOWN
    remote = _REMOTE.match(name) or _DRIVE.match(name)
    return name[remote.end() if remote else 0 :].strip() or UNKNOWN


def wrong_type(name: str, expected: str, value: object) -> ValueError:
    """Return the error of a value that has another type."""
    return ValueError(f"{name} must be {expected}, not {type(value).__name__}")


def require_text(name: str, value: object) -> str:
    """Return the value if it is text; otherwise raise ValueError."""
    if not isinstance(value, str):
        raise wrong_type(name, "text", value)
    return value


def require_integer(name: str, value: object) -> int:
    """Return the value as an integer of Python, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise wrong_type(name, "an integer", value)
    result = int(value)
    # Larger ones are no seeds, and Python and other readers of JSON refuse them.
    if result.bit_length() > _MAX_BITS:
        raise ValueError(f"{name} must have at most {_MAX_BITS:,} bits")
    return result


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise wrong_type(name, "a number", value)
    # An integer stays one, so that it is embedded as the caller wrote it.
    if isinstance(value, numbers.Integral):
        return require_integer(name, value)
    try:
        result = float(value)
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, not {result}")
    return result


def _loras(name: str, value: object) -> tuple[Mapping[str, Any], ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise wrong_type(name, "a list", value)
    return tuple(_lora(f"{name}[{number}]", one) for number, one in enumerate(value))


def _lora(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise wrong_type(name, "an object", value)
    return {
        "name": require_text(f"{name}.name", value.get("name")),
        "weight": _number(f"{name}.weight", value.get("weight")),
    }


def _optional(check: Callable[[str, object], object]) -> Callable[[str, object], object]:
    return lambda name, value: None if value is None else check(name, value)


_CHECKS: Mapping[str, Callable[[str, object], object]] = {
    **dict.fromkeys(
        ("generation_id", "generation_timestamp", "prompt", "negative_prompt"), require_text
    ),
    **dict.fromkeys(("seed", "steps", "width", "height", "clip_skip"), _optional(require_integer)),
    **dict.fromkeys(("cfg_scale", "generation_time_seconds", "peak_vram_gb"), _optional(_number)),
    **dict.fromkeys(("sampler", "scheduler", "vae_model"), _optional(require_text)),
    **dict.fromkeys(("base_model_id", "base_model_architecture"), require_text),
    **dict.fromkeys(("pipeline_type", "pipeline_version"), require_text),
    "loras_used": _loras,
}
