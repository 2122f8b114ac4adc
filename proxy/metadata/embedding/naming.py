"""File names of generated images."""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from proxy.metadata.embedding.fields import (
    ImageMetadataEmbedding,
    require_integer,
    require_text,
    wrong_type,
)

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Suffixes of images in which metadata can be embedded, and the format of each."""
GUID_DIGITS = 8
_SHOWN = 40
_MAX_PROMPT = 4096
"""Characters of a prompt that may become part of a name, which has at most 255 bytes."""

_ARTICLES = frozenset(("a", "an", "the"))
_PREPOSITIONS = frozenset(
    (
        "about", "above", "across", "after", "against", "along", "among", "around", "as", "at",
        "before", "behind", "below", "beneath", "beside", "besides", "between", "beyond", "by",
        "despite", "down", "during", "except", "for", "from", "in", "inside", "into", "like",
        "near", "of", "off", "on", "onto", "opposite", "out", "outside", "over", "past", "per",
        "since", "through", "throughout", "till", "to", "toward", "towards", "under",
        "underneath", "until", "up", "upon", "versus", "via", "with", "within", "without",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ImageNamingConfig:
    """How files are named: timestamp, excerpt of the prompt and GUID, in this order.

    Raises:
        ValueError: a value cannot be part of a file name.
    """

    include_timestamp: bool = True
    include_guid: bool = True
    include_prompt_excerpt: bool = False
    prompt_excerpt_length: int = 30
    """Maximum number of characters of the excerpt."""
    timestamp_format: str = "%Y%m%d_%H%M%S"
    """As for `datetime.strftime`; the time is in UTC."""
    separator: str = "_"
    extension: str = "png"

    def __post_init__(self) -> None:
        """Check the types, then the values."""
        for name in ("include_timestamp", "include_guid", "include_prompt_excerpt"):
            if not isinstance(value := getattr(self, name), bool):
                raise wrong_type(name, "True or False", value)
        for name in ("timestamp_format", "separator", "extension"):
            require_text(name, getattr(self, name))
        length = require_integer("prompt_excerpt_length", self.prompt_excerpt_length)
        object.__setattr__(self, "prompt_excerpt_length", length)
        if f".{self.extension}".lower() not in SUFFIXES:
            allowed = ", ".join(suffix.removeprefix(".") for suffix in SUFFIXES)
            raise ValueError(f"extension {self.extension!r} is not one of {allowed}")
        if length < 1:
            raise ValueError("prompt_excerpt_length must be at least 1")
        _require_part("separator", self.separator, self.separator)
        # Checked as a result too: "%D" contains slashes.
        sample = datetime(2025, 1, 11, 14, 30, 22, tzinfo=UTC).strftime(self.timestamp_format)
        _require_part("timestamp_format", self.timestamp_format, self.timestamp_format + sample)
        if self.include_timestamp and not sample:
            raise ValueError(f"timestamp_format {self.timestamp_format!r} gives an empty name")

    @classmethod
    def standard(cls) -> Self:
        """Return ``20250111_143022_a3f2e9d4.png``."""
        return cls()

    @classmethod
    def descriptive(cls) -> Self:
        """Return ``20250111_143022_beautiful-sunset_a3f2e9d4.png``."""
        return cls(include_prompt_excerpt=True)

    @classmethod
    def guid_only(cls) -> Self:
        """Return ``a3f2e9d4-b2c1-4a8e-9f3d-1e2a4b5c6d7e.png``: no time, no prompt."""
        return cls(include_timestamp=False)


def _require_part(name: str, value: str, text: str) -> None:
    if not text.isprintable() or any(one in text for one in "/\\"):
        raise ValueError(f"{name} {value!r} must not contain slashes or control characters")


def filename_of(
    metadata: ImageMetadataEmbedding, config: ImageNamingConfig, prefix: str | None = None
) -> str:
    """Return the file name of an image.

    Raises:
        ValueError: the timestamp cannot be parsed, or the prefix cannot be part of a file name.
    """
    parts = []
    if prefix is not None and require_text("custom_prefix", prefix):
        _require_part("custom_prefix", prefix, prefix)
        parts.append(prefix)
    if config.include_timestamp:
        parts.append(parse_timestamp(metadata).strftime(config.timestamp_format))
    if config.include_prompt_excerpt and (excerpt := _excerpt(metadata, config)):
        parts.append(excerpt)
    # The only part that makes a name unique: a short one alone would not.
    guid = re.sub(r"[^A-Za-z0-9-]+", "-", metadata.generation_id)
    if not parts:
        parts.append(guid)
    elif config.include_guid:
        parts.append(guid[:GUID_DIGITS])
    return f"{config.separator.join(parts)}.{config.extension}"


def parse_timestamp(metadata: ImageMetadataEmbedding) -> datetime:
    """Return the time of the generation in UTC.

    Raises:
        ValueError: it cannot be parsed.
    """
    try:
        time = datetime.fromisoformat(metadata.generation_timestamp)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        text = metadata.generation_timestamp[:_SHOWN]
        raise ValueError(
            f"generation_timestamp {text!r} is not ISO 8601. Use create_timestamp()."
        ) from None


def _excerpt(metadata: ImageMetadataEmbedding, config: ImageNamingConfig) -> str:
    """Return the first words of the prompt, without articles and prepositions at their ends."""
    # Cut first: sorting accents, which normalising does, takes quadratic time.
    plain = unicodedata.normalize("NFKD", metadata.prompt[:_MAX_PROMPT])
    # Accents are separate characters after NFKD; removing them keeps the word in one piece.
    plain = "".join(one for one in plain if not unicodedata.combining(one)).lower()
    words = re.findall(r"[a-z0-9]+", plain)
    kept: list[str] = []
    length = 0
    for word in itertools.dropwhile(_ARTICLES.__contains__, words):
        length += len(word) + bool(kept)
        if kept and length > config.prompt_excerpt_length:
            break
        kept.append(word)
    while kept and kept[-1] in _ARTICLES | _PREPOSITIONS:
        kept.pop()
    return "-".join(kept)[: config.prompt_excerpt_length]
