"""A main API at its seam, which takes all that it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from proxy.domain.upload import Upload


class QuietApi:
    """Implements `proxy.ingest.main_api.MainApi`."""

    def __init__(self) -> None:
        self.cleaned: list[int] = []

    async def pending(self) -> Sequence[Upload]:
        return []

    def download(self, image_path: str) -> AbstractAsyncContextManager[int]:
        raise NotImplementedError(image_path)

    async def complete(self, main_api_id: int, payload: Mapping[str, Any]) -> None:
        """Nothing is kept."""

    async def cleanup(self, main_api_id: int) -> None:
        self.cleaned.append(main_api_id)
