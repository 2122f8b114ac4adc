"""Vision providers, and text recognition with Tesseract."""

from __future__ import annotations

from typing import Protocol

from proxy.domain.analysis import VisionResult


class VisionProvider(Protocol):
    """A service that describes images."""

    @property
    def name(self) -> str:
        """Return the key of this provider in results and reasons."""
        ...

    async def analyse(self, image: bytes, media_type: str, data_type: str) -> VisionResult:
        """Describe an encoded image; ``data_type`` is the purpose it was uploaded for.

        Raises:
            AnalysisError: there is no answer. Its text is the reason, and contains no secret.
        """
        ...
