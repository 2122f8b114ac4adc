"""A main API at its seam, which takes all that it is told."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from proxy.domain.upload import PendingPage
from proxy.ingest.main_api import DownloadedFile


class QuietApi:
    """Implements `proxy.ingest.main_api.MainApi`."""

    def __init__(self) -> None:
        self.cleaned: list[int] = []
        self.confirmations = 0

    async def pending(self, after: int = 0) -> PendingPage:
        assert not after
        return PendingPage()

    def download(self, image_path: str) -> AbstractAsyncContextManager[DownloadedFile]:
        raise NotImplementedError(image_path)

    async def complete(self, main_api_id: int, payload: Mapping[str, Any]) -> None:
        """Nothing is kept."""

    async def cleanup(self, main_api_id: int) -> None:
        self.cleaned.append(main_api_id)
