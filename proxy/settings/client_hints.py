"""Client hints: leaner encodings for visitors who save data or have a slow connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pydantic import Field

from proxy.domain.formats import Format
from proxy.domain.variant import EncodingStage, EncodingStages
from proxy.settings.encoders import Quality
from proxy.settings.sections import Section


class ClientHintSettings(Section):
    """Client hints: fewer bytes for visitors who save data or whose connection is slow.

    These are requests with `Save-Data: on`, or with an `ECT` of slow-2g, 2g or 3g. They get drafts
    and finals of lower quality, about 40% smaller. Chromium sends Save-Data by itself, and ECT only
    to origins that a page named in Accept-CH; see deploy/README.md. Before you enable this behind a
    CDN or nginx, add the hints to the cache key there: every image then has Vary: Save-Data, ECT.
    """

    enabled: bool = False
    """Whether the hints are read. If false, they have no effect and no cost."""
    target: float = Field(60.0, ge=0, le=99)
    """As encoders.target, if that is higher. Has no effect if that is 0."""
    jpeg_quality: Quality = 55
    """Quality of JPEG drafts, if that of encoders is higher. Also the start of the quality search
    for finals."""
    webp_quality: Quality = 45
    """As jpeg_quality, for WebP."""
    avif_quality: Quality = 48
    """As jpeg_quality, for AVIF."""
    min_quality: Quality = 20
    """Lower bound of the quality search, if that of encoders is higher."""

    def leaner(self, stages: Mapping[Format, EncodingStages]) -> dict[Format, EncodingStages]:
        """Return draft and final of each format for requests with hints; lossless ones as given."""
        qualities = {
            Format.JPEG: self.jpeg_quality,
            Format.WEBP: self.webp_quality,
            Format.AVIF: self.avif_quality,
        }
        return {
            fmt: EncodingStages(
                self._leaner(found.draft, qualities.get(fmt)),
                self._leaner(found.final, qualities.get(fmt)),
            )
            for fmt, found in stages.items()
        }

    def _leaner(self, stage: EncodingStage, quality: int | None) -> EncodingStage:
        options = dict(stage.profile.options)
        if quality is None:
            return stage
        options["Q"] = min(quality, int(options["Q"]))
        # A gain map costs a tenth of a JPEG.
        gain_map = stage.profile.gain_map and stage.profile.format is not Format.JPEG
        sorted_options = tuple(sorted(options.items()))
        profile = replace(stage.profile, options=sorted_options, gain_map=gain_map)
        if stage.search is None:
            return replace(stage, profile=profile)
        search = replace(
            stage.search,
            target=min(self.target, stage.search.target),
            low=min(self.min_quality, stage.search.low),
        )
        return replace(stage, profile=profile, search=search)
