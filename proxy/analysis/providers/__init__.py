"""Vision: what others see in a picture; two services and a program that reads text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from proxy.domain.image_analysis import VisionResult


@dataclass(frozen=True, slots=True)
class VisionContext:
    """What is known of a picture before it is looked at."""

    data_type: str
    """What it is for, as `proxy.domain.media.DataType` names it."""


class VisionProvider(Protocol):
    """A model that looks at pictures."""

    @property
    def name(self) -> str:
        """What it is called in reasons and results."""
        ...

    async def analyse(
        self, picture: bytes, media_type: str, context: VisionContext
    ) -> VisionResult:
        """Look at an encoded picture, which is sent as it is.

        Raises:
            AnalysisError: it has no answer; the text is the reason, and safe to show.
        """
        ...
