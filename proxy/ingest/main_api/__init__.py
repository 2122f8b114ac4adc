"""The main API, which lists uploads and receives results: over HTTP, or in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from proxy.domain.upload import Upload


class MainApi(Protocol):
    """Source of uploads and receiver of results.

    Every method raises `MainApiUnavailable` if a retry may help, and `MainApiRefused` or one of its
    subclasses if it does not.
    """

    async def pending(self) -> Sequence[Upload]:
        """Return all uploads that no worker has completed."""

    def download(self, image_path: str) -> AbstractAsyncContextManager[int]:
        """Yield a readable descriptor of an uploaded file, which is closed after the block.

        Raises:
            SourceTooLarge: the file exceeds the maximum size of an original.
            SourceUnavailable: the download cannot be stored.
        """

    async def complete(self, main_api_id: int, payload: Mapping[str, Any]) -> None:
        """Report the medium of an upload. Idempotent."""

    async def cleanup(self, main_api_id: int) -> None:
        """Report that an upload failed permanently. Idempotent."""
