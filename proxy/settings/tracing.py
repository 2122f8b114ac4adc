"""Where traces go, and how many of them there are."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from proxy.settings.base import Seconds, Section

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_VALUE = re.compile(r"[ -~]*")
"""Header names and values (RFC 9110, 5.1 and 5.5), without what only old ones have."""


class TracingSettings(Section):
    """Traces for OpenTelemetry; what is empty here the ``OTEL_*`` variables say."""

    enabled: bool = False
    ratio: float = Field(0.01, ge=0, le=1)
    honour_parent: bool = False
    service_name: str = Field("", max_length=200)
    endpoint: str = Field("", pattern=r"^(https?://[^\s#]+)?$", repr=False)
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    max_queue: int = Field(2048, ge=1, le=1_000_000)
    flush_s: Seconds = 2

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        """The values are not repeated: as a rule they are keys."""
        if wrong := [name for name in headers if not _NAME.fullmatch(name)]:
            message = f"names of headers are ASCII without spaces: not {wrong}"
            raise ValueError(message)
        if wrong := [name for name, value in headers.items() if not _VALUE.fullmatch(value)]:
            message = f"values of headers are printable ASCII: not that of {wrong}"
            raise ValueError(message)
        return headers
