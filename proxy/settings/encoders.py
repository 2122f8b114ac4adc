"""How each format is encoded: at once, and in the end."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from proxy.domain.formats import (
    EncoderProfile,
    EncodingStage,
    EncodingStages,
    Format,
    QualitySearch,
)
from proxy.settings.base import Quality, Section


class JpegDraftSettings(Section):
    """JPEG encoder (mozjpeg), quick."""

    quality: Quality = 80
    progressive: bool = False
    trellis: bool = False

    def profile(self) -> EncoderProfile:
        """The save options of libvips."""
        return _profile(
            Format.JPEG,
            Q=self.quality,
            interlace=self.progressive,
            # Tables fitted to a picture save 2 %, but need all of it before the first byte.
            optimize_coding=self.progressive or self.trellis,
            **({"trellis_quant": True, "quant_table": 3} if self.trellis else {}),
        )


class WebpDraftSettings(Section):
    """WebP encoder, quick."""

    quality: Quality = 79
    effort: int = Field(2, ge=0, le=6)
    smart_subsample: bool = False

    def profile(self) -> EncoderProfile:
        """The save options of libvips."""
        smart = {"smart_subsample": True} if self.smart_subsample else {}
        return _profile(Format.WEBP, Q=self.quality, effort=self.effort, **smart)


class AvifDraftSettings(Section):
    """AVIF encoder (libheif and aom), quick."""

    quality: Quality = 63
    effort: int = Field(0, ge=0, le=9)
    bit_depth: Literal[8, 10, 12] = 8

    def profile(self) -> EncoderProfile:
        """The save options of libvips."""
        return _profile(Format.AVIF, Q=self.quality, effort=self.effort, bitdepth=self.bit_depth)


class Bounds(Section):
    """Between which qualities the target is searched."""

    lowest: Quality = 40
    highest: Quality = 90

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lowest > self.highest:
            message = "lowest is above highest"
            raise ValueError(message)
        return self

    def search(self, target: float) -> QualitySearch | None:
        """The search for a target; None where there is none."""
        return QualitySearch(target, self.lowest, self.highest) if target else None


class JpegFinalSettings(Bounds, JpegDraftSettings):
    """JPEG encoder, small."""

    progressive: bool = True
    trellis: bool = True
    # A logo rings below 98; photographs never come near.
    highest: Quality = 99


class WebpFinalSettings(Bounds, WebpDraftSettings):
    """WebP encoder, small."""

    effort: int = Field(6, ge=0, le=6)
    smart_subsample: bool = True
    highest: Quality = 100


class AvifFinalSettings(Bounds, AvifDraftSettings):
    """AVIF encoder, small."""

    effort: int = Field(3, ge=0, le=9)
    bit_depth: Literal[8, 10, 12] = 10
    tune: Literal["default", "iq"] = "iq"

    def profile(self) -> EncoderProfile:
        """The save options of libvips."""
        plain = super().profile()
        if self.tune == "default":
            return plain
        return _profile(Format.AVIF, **dict(plain.options), tune=self.tune)


class JpegSettings(Section):
    """The two ways to encode JPEG."""

    draft: JpegDraftSettings = JpegDraftSettings()
    final: JpegFinalSettings = JpegFinalSettings()


class WebpSettings(Section):
    """The two ways to encode WebP."""

    draft: WebpDraftSettings = WebpDraftSettings()
    final: WebpFinalSettings = WebpFinalSettings()


class AvifSettings(Section):
    """The two ways to encode AVIF."""

    draft: AvifDraftSettings = AvifDraftSettings()
    final: AvifFinalSettings = AvifFinalSettings()


class PngSettings(Section):
    """PNG encoder; a palette is used only where it loses nothing."""

    compression: int = Field(6, ge=0, le=9)


class GifSettings(Section):
    """GIF encoder, for animations that a client cannot have as WebP."""

    effort: int = Field(4, ge=1, le=10)


class EncoderSettings(Section):
    """How each format is encoded."""

    order: tuple[Format, ...] = (Format.AVIF, Format.WEBP, Format.JPEG)
    copyright: str = Field("", max_length=500)
    target: float = Field(75.0, ge=0, le=99)
    smallest_wins: bool = True
    jpeg: JpegSettings = JpegSettings()
    webp: WebpSettings = WebpSettings()
    avif: AvifSettings = AvifSettings()
    png: PngSettings = PngSettings()
    gif: GifSettings = GifSettings()

    @field_validator("order")
    @classmethod
    def _check_order(cls, order: tuple[Format, ...]) -> tuple[Format, ...]:
        allowed = {Format.AVIF, Format.WEBP, Format.JPEG}
        if len(set(order)) != len(order) or not set(order) <= allowed or Format.JPEG not in order:
            message = "must hold jpeg, and avif and webp at most once each"
            raise ValueError(message)
        return order

    def profiles(self) -> dict[Format, EncoderProfile]:
        """The save options of libvips with which a format is first encoded."""
        return {
            Format.JPEG: self.jpeg.draft.profile(),
            Format.WEBP: self.webp.draft.profile(),
            Format.AVIF: self.avif.draft.profile(),
            Format.PNG: _profile(Format.PNG, compression=self.png.compression),
            Format.GIF: _profile(Format.GIF, effort=self.gif.effort),
        }

    def stages(self) -> dict[Format, EncodingStages]:
        """How each format is encoded at once and in the end."""
        finals = {
            fmt: EncodingStage(settings.profile(), settings.search(self.target))
            for fmt, settings in (
                (Format.JPEG, self.jpeg.final),
                (Format.WEBP, self.webp.final),
                (Format.AVIF, self.avif.final),
            )
        }
        drafts = {fmt: EncodingStage(profile) for fmt, profile in self.profiles().items()}
        return {fmt: EncodingStages(draft, finals.get(fmt, draft)) for fmt, draft in drafts.items()}

    def single_stages(self) -> dict[Format, EncodingStages]:
        """The same without a second stage: what is encoded at once is final."""
        drafts = {fmt: EncodingStage(profile) for fmt, profile in self.profiles().items()}
        return {fmt: EncodingStages(draft, draft) for fmt, draft in drafts.items()}


def _profile(fmt: Format, **options: int | bool | str) -> EncoderProfile:
    return EncoderProfile(fmt, tuple(sorted(options.items())))
