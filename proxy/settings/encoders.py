"""Encoder settings of each format, for drafts and for finals."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from proxy.domain.formats import Format
from proxy.domain.variant import (
    EncoderProfile,
    EncodingStage,
    EncodingStages,
    Gamut,
    QualitySearch,
)
from proxy.settings.sections import Section

Quality = Annotated[int, Field(ge=1, le=100)]


class JpegDraftSettings(Section):
    """JPEG drafts (mozjpeg with its quantisation table 5, except for graphics)."""

    quality: Quality = 80
    """Quality. For a final, the start of the quality search."""
    progressive: bool = False
    """Progressive scans: the file is slightly smaller, but it cannot be streamed while it is
    encoded."""
    trellis: bool = False
    """Trellis quantisation: the file is about 20% smaller and takes eight times as long. It cannot
    be streamed."""

    def profile(self, *, lasting: bool = False) -> EncoderProfile:
        """Return the libvips save options; ``lasting``: no final replaces the image."""
        return _profile(
            Format.JPEG,
            Q=self.quality,
            interlace=self.progressive,
            # Huffman tables fitted to the image save 2 %, but delay the first byte to the end.
            optimize_coding=lasting or self.progressive or self.trellis,
            # At equal SSIMULACRA2, photographs have 8 % fewer bytes (3 to 19 %) than with table 0
            # of the JPEG standard, and are still streamed; with table 3, 7 % (`make bench
            # BENCH=jpeg-drafts`). With trellis quantisation, table 3 is that of mozjpeg.
            quant_table=3 if self.trellis else 5,
            **({"trellis_quant": True} if self.trellis else {}),
        )


class WebpDraftSettings(Section):
    """WebP drafts."""

    quality: Quality = 79
    """Quality. For a final, the start of the quality search."""
    effort: int = Field(2, ge=0, le=6)
    """0 is fast, 6 gives the smallest file."""
    smart_subsample: bool = False
    """Sharper colour edges, at the cost of encoding time."""

    def profile(self) -> EncoderProfile:
        """Return the libvips save options."""
        # Options that are off are left out, so that they do not change the keys of renditions.
        smart = {"smart_subsample": True} if self.smart_subsample else {}
        return _profile(Format.WEBP, Q=self.quality, effort=self.effort, **smart)


class AvifDraftSettings(Section):
    """AVIF drafts (libheif with aom)."""

    quality: Quality = 63
    """Quality. For a final, the start of the quality search."""
    effort: int = Field(0, ge=0, le=9)
    """0 is fast, 9 gives the smallest file. Each step above 1 takes two to eight times as long:
    3 is 10% smaller than 1 in five times the time, 4 is 14% smaller in twenty times."""
    bit_depth: Literal[8, 10, 12] = 8
    """Bits per colour channel."""

    def profile(self) -> EncoderProfile:
        """Return the libvips save options."""
        return _profile(Format.AVIF, Q=self.quality, effort=self.effort, bitdepth=self.bit_depth)


class QualityBounds(Section):
    """Bounds of the quality search."""

    min_quality: Quality = 40
    """Lower bound of the quality search."""
    max_quality: Quality = 90
    """Upper bound of the quality search. Photographs never come near it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_quality > self.max_quality:
            raise ValueError("min_quality must not exceed max_quality")
        return self

    def search(self, target: float) -> QualitySearch | None:
        """Return the search for a target score, or None if the target is 0."""
        return QualitySearch(target, self.min_quality, self.max_quality) if target else None


class JpegFinalSettings(QualityBounds, JpegDraftSettings):
    """JPEG finals."""

    progressive: bool = True
    trellis: bool = True
    max_quality: Quality = 99


class WebpFinalSettings(QualityBounds, WebpDraftSettings):
    """WebP finals."""

    effort: int = Field(6, ge=0, le=6)
    smart_subsample: bool = True
    max_quality: Quality = 100


class AvifFinalSettings(QualityBounds, AvifDraftSettings):
    """AVIF finals."""

    effort: int = Field(3, ge=0, le=9)
    bit_depth: Literal[8, 10, 12] = 10
    tune: Literal["default", "iq"] = "iq"
    """Metric that the encoder optimises: "default", or "iq" for perceived quality. With the bundled
    libheif both give the same bytes."""

    def profile(self) -> EncoderProfile:
        """Return the libvips save options."""
        plain = super().profile()
        # The default of the encoder itself: the option is left out.
        if self.tune == "default":
            return plain
        return _profile(Format.AVIF, **dict(plain.options), tune=self.tune)


class JpegSettings(Section):
    """JPEG encoder."""

    draft: JpegDraftSettings = JpegDraftSettings()
    final: JpegFinalSettings = JpegFinalSettings()


class WebpSettings(Section):
    """WebP encoder."""

    draft: WebpDraftSettings = WebpDraftSettings()
    final: WebpFinalSettings = WebpFinalSettings()


class AvifSettings(Section):
    """AVIF encoder."""

    draft: AvifDraftSettings = AvifDraftSettings()
    final: AvifFinalSettings = AvifFinalSettings()


class PngSettings(Section):
    """PNG encoder. It uses a palette only if that is lossless."""

    compression: int = Field(6, ge=0, le=9)
    """zlib level: 0 does not compress, 9 gives the smallest file."""


class GifSettings(Section):
    """GIF encoder, for animations if the client does not accept WebP, and for format=gif."""

    effort: int = Field(4, ge=1, le=10)
    """1 is fast, 10 gives the smallest file."""


class EncoderSettings(Section):
    """Encoders.

    JPEG, WebP and AVIF have two encodings: a draft, which answers the first request quickly, and a
    smaller final, which replaces the draft; see [upgrades]. After a change of these settings every
    image has a new ETag and is rendered again at its next request. Copies in browsers and CDNs
    remain until their lifetime ends or they are purged.

    Graphics, such as screenshots, logos and charts, are recognised by their flat areas and hard
    edges. Their WebP is lossless or has fewer colours if that is smaller and not noticed side by
    side (a score of at least 85, or 90 with gradients), their AVIF has full chroma and an effort of
    at least 1, and their JPEG has full chroma if thin coloured lines need it. A final of a graphic
    has at most the bytes of a quick encoding at `quality`, and at least its score. If `target`
    needs more bytes, it is missed, unless the quick encoding scores less than 50.
    """

    order: tuple[Format, ...] = (Format.AVIF, Format.WEBP, Format.JPEG)
    """Preference among formats that a client accepts with equal q-values. Must contain jpeg. If
    avif or webp is left out, it is only sent to a request with format=."""
    copyright: str = Field("", max_length=500)
    """Copyright notice that is written into every image. If empty, none. All other metadata is
    always removed."""
    target: float = Field(75.0, ge=0, le=99)
    """Similarity of a final to its original, as SSIMULACRA2 score: 100 is identical, 90 visually
    lossless, 75 good, 50 poor. The quality of each image is searched in at most four encodes. 0
    disables the search; finals then have the quality set below."""
    prefer_smallest: bool = True
    """Sends a final in the client's second format if that file is smaller than its first."""
    output_gamut: Gamut = Gamut.SRGB
    """Colour space of images whose source has a wider gamut than sRGB, such as Display P3, Adobe
    RGB, ProPhoto, BT.2020, CMYK or Lab. With "srgb" they are converted to sRGB; with "p3" they are
    converted to Display P3, and the file contains its profile (480 bytes). All other images, and
    GIF, are sRGB without a profile."""
    gain_maps: bool = True
    """JPEGs of a photograph in HDR (Ultra HDR, ISO 21496-1) keep its gain map: about 10% more bytes
    and one kilobyte. Other formats, and displays without HDR, show the same image without it."""
    jpeg: JpegSettings = JpegSettings()
    webp: WebpSettings = WebpSettings()
    avif: AvifSettings = AvifSettings()
    png: PngSettings = PngSettings()
    gif: GifSettings = GifSettings()

    @field_validator("order")
    @classmethod
    def _check_order(cls, order: tuple[Format, ...]) -> tuple[Format, ...]:
        allowed = {Format.AVIF, Format.WEBP, Format.JPEG}
        # JPEG is required because every negotiation may end with it.
        if len(set(order)) != len(order) or not set(order) <= allowed or Format.JPEG not in order:
            raise ValueError("must contain jpeg, and avif and webp at most once each")
        return order

    def profiles(self, *, finals: bool = True) -> dict[Format, EncoderProfile]:
        """Return the libvips save options of the drafts; without ``finals`` they are lasting."""
        jpeg = self.jpeg.draft.profile(lasting=not finals)
        drafts = (jpeg, self.webp.draft.profile(), self.avif.draft.profile())
        png = _profile(Format.PNG, compression=self.png.compression)
        coloured = {one.format: self._coloured(one) for one in (*drafts, png)}
        return coloured | {Format.GIF: _profile(Format.GIF, effort=self.gif.effort)}

    def _coloured(self, profile: EncoderProfile) -> EncoderProfile:
        # A field that does not apply would change the keys of renditions.
        gain_map = self.gain_maps or profile.format is not Format.JPEG
        return replace(profile, gamut=self.output_gamut, gain_map=gain_map)

    def stages(self, *, finals: bool = True) -> dict[Format, EncodingStages]:
        """Return draft and final of each format; without ``finals`` the draft is the final."""
        profiles = self.profiles(finals=finals)
        drafts = {fmt: EncodingStage(profile) for fmt, profile in profiles.items()}
        # PNG and GIF have one encoding, which is both.
        found = {fmt: EncodingStages(draft, draft) for fmt, draft in drafts.items()}
        for section in (self.jpeg.final, self.webp.final, self.avif.final) if finals else ():
            profile = self._coloured(section.profile())
            final = EncodingStage(profile, section.search(self.target))
            fmt = final.profile.format
            found[fmt] = EncodingStages(drafts[fmt], final)
        return found


def _profile(fmt: Format, **options: int | bool | str) -> EncoderProfile:
    # Sorted, because the options are a part of the keys of renditions.
    return EncoderProfile(fmt, tuple(sorted(options.items())))
