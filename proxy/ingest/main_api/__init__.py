"""The main API as the worker knows it: over HTTP, as the requirements document writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Protocol

from proxy.domain.ingest_item import Upload


class MainApi(Protocol):
    """Where uploads come from and results go to.

    Every method raises `MainApiUnavailable` where another attempt may help, and a kind of
    `MainApiRefused` where it does not.
    """

    async def pending(self) -> Sequence[Upload]:
        """All uploads that wait for a worker."""

    async def download(self, image_path: str, target: BinaryIO) -> int:
        """Write a temporary file into an empty one of ours; gives its bytes.

        Raises:
            SourceTooLarge: it is longer than an original may be.
            SourceUnavailable: ``target`` cannot be written.
        """

    async def complete(self, main_api_id: int, payload: Mapping[str, Any]) -> None:
        """Tell that a medium is there; telling it twice is telling it once."""

    async def cleanup(self, main_api_id: int) -> None:
        """Tell that there will be no medium."""
