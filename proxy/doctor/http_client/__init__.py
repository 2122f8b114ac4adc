"""The visitor: asks a server over HTTP as a browser would, and tells what came back as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ProbeResponse:
    """What came back, as it was on the wire: nothing is unpacked, no redirect followed."""

    status: int
    headers: Headers
    """Names in any case; what stands on several lines is joined by commas."""
    body: bytes
    seconds: float
    """From asking to the last byte."""

    def told(self, name: str) -> str:
        """The value of a header; empty where it is not there."""
        return self.headers.get(name, "")

    @property
    def media_type(self) -> str:
        """The media type without its parameters, in small letters."""
        return self.told("Content-Type").partition(";")[0].strip().lower()


class HttpProbe(Protocol):
    """Who asks one server; all raise `proxy.domain.errors.NoAnswer` where nothing comes back."""

    @property
    def base(self) -> str:
        """The server's address, without a slash in the end."""
        ...

    async def ask(
        self, target: str, *, method: str = "GET", headers: Headers | None = None
    ) -> ProbeResponse:
        """The answer to a request without a body; the target goes out as it is."""
        ...

    async def announce(self, target: str, *, method: str, byte_size: int) -> int:
        """The first status that a body of so many bytes meets, of which none is sent.

        100 is that of a server that would have it (RFC 9110, 10.1.1).
        """
        ...
