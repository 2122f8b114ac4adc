"""What is delivered: the bytes that answer a request, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.domain.formats import Format, sniff
from proxy.domain.outcome import Origin
from proxy.domain.variant import Variant
from proxy.serving.renderer import RunningRender
from proxy.storage.renditions import Rendition

_STREAMED_PIXELS = 640 * 640


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """The bytes that answer a plan: a whole rendition or a render under way."""

    variant: Variant
    """Another one than the plan's where the answer is its draft or a fallback."""
    origin: Origin
    rendition: Rendition | None = None
    rendering: RunningRender | None = None
    draft: bool = False
    """Whether it stands in until the final is made."""

    @property
    def lasting(self) -> bool:
        """Whether the next one who asks will probably get the same bytes, and in one piece."""
        whole = self.rendition is not None and self.rendition.body is not None
        return whole and not self.draft and self.origin is not Origin.FALLBACK

    async def format(self) -> Format:
        """The format of the bytes; waits for them where only they can tell.

        Raises:
            SmartserveError: the render failed.
        """
        if self.variant.rival is None:
            return self.variant.format
        head = b""
        if self.rendition is not None:
            head = self.rendition.head
        elif self.rendering is not None:
            head = await self.rendering.stream.whole()
        return Format(sniff(head) or self.variant.format)


def streams(variant: Variant) -> bool:
    """Whether a render gives bytes worth sending before its end.

    Only a baseline JPEG comes out as it is made; a small one is whole before a client could have
    read the first part, and is of more use with a Content-Length.
    """
    large = variant.geometry.width * variant.geometry.height >= _STREAMED_PIXELS
    return variant.profile.streams and large
