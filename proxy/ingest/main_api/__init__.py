"""The main API, which lists uploads and receives results: over HTTP, or in this process."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

from proxy.domain.upload import PendingPage, pages


class DownloadedFile(NamedTuple):
    """An uploaded file that is open for reading."""

    descriptor: int
    doubt: str = ""
    """Why the bytes may not be those of the file; empty if there is no reason for doubt."""


class MainApi(Protocol):
    """Source of uploads and receiver of results.

    Every method raises `MainApiUnavailable` if a retry may help, and `MainApiRefused` or one of its
    subclasses if it does not.
    """

    confirmations: int
    """Number of further downloads that must give the same result before a file is proved bad."""

    async def pending(self, after: int = 0) -> PendingPage:
        """Return the uploads with ids above ``after`` that no worker has completed.

        A main API that does not divide its list into pages returns the whole list.
        """

    def download(self, image_path: str) -> AbstractAsyncContextManager[DownloadedFile]:
        """Yield an uploaded file, which is closed after the block.

        Raises:
            SourceTooLarge: the file exceeds the maximum size of an original.
            SourceUnavailable: the download cannot be stored.
        """

    async def complete(self, main_api_id: int, payload: Mapping[str, Any]) -> None:
        """Report the medium of an upload. Idempotent."""

    async def cleanup(self, main_api_id: int) -> None:
        """Report that the file of an upload is bad. Idempotent.

        The main API deletes the file.
        """


async def count_pending(api: MainApi) -> int:
    """Return the number of pending uploads, usable or not; raises as `MainApi` does."""
    return sum([len(page.uploads) + len(page.unusable) async for page in pages(api.pending)])
