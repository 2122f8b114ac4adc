"""Settings: one frozen section for each room, from a TOML file and ``SMARTSERVE_*`` variables.

The environment wins over the file: ``SMARTSERVE_SERVER__PORT=9000`` sets ``port`` of ``[server]``.
All faults are found at once and each names key, value and what is allowed.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from proxy.errors import ConfigurationError
from proxy.formats import EncoderProfile, Format, QualitySearch, Stage, Stages
from proxy.jobs import Limits
from proxy.variant import DEFAULT_SIZE, MAX_SIDE, Fit, Gravity, SizeSpec

ENV_PREFIX = "SMARTSERVE_"
CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
"""Names the settings file itself; the command line reads it."""
_MIB = 1024 * 1024
_SIZE_NAME = re.compile(r"(?!w[0-9])[A-Za-z][A-Za-z0-9_-]{0,39}", re.ASCII)
"""``w640`` is what a width of the ladder is called in metrics and tags."""

Seconds = Annotated[float, Field(ge=0, le=10 * 365 * 86400)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86400)]
Lifetime = Annotated[int, Field(ge=0, le=10 * 365 * 86400)]
Quality = Annotated[int, Field(ge=1, le=100)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class Section(BaseModel):
    """A frozen part of the settings; unknown keys are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(Section):
    """The HTTP server."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    public_url: str = ""
    keepalive_s: PositiveSeconds = 75
    drain_s: Seconds = 20
    max_header_bytes: int = Field(8190, ge=1024, le=65536)


class LogSettings(Section):
    """Logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"
    access: bool = True


class DatabaseSettings(Section):
    """The media database and the cache of its rows."""

    url: str = Field("", repr=False)
    upgrade_on_start: bool = True
    pool_size: int = Field(8, ge=1, le=200)
    pool_recycle_s: PositiveSeconds = 1800
    connect_timeout_s: PositiveSeconds = 3
    query_timeout_s: PositiveSeconds = 5
    row_ttl_s: Seconds = 60
    negative_ttl_s: Seconds = 5
    max_rows: int = Field(100_000, ge=1)
    retry_after_s: int = Field(5, ge=1, le=3600)
    breaker_s: Seconds = 1


class StorageSettings(Section):
    """Where the originals are."""

    root: str = ""
    strip_prefix: str = ""
    max_original_bytes: int = Field(100 * _MIB, ge=1024)
    open_timeout_s: PositiveSeconds = 5


class RenditionSettings(Section):
    """Where renditions are kept, and how much of them."""

    directory: str = ""
    memory_max_bytes: int = Field(256 * _MIB, ge=0)
    memory_max_item_bytes: int = Field(4 * _MIB, ge=0)
    disk_max_bytes: int = Field(10 * 1024 * _MIB, ge=_MIB)
    disk_low_water: float = Field(0.9, gt=0, lt=1)
    scan_interval_s: PositiveSeconds = 3600
    max_rendition_bytes: int = Field(64 * _MIB, ge=_MIB)


class WorkerSettings(Section):
    """The processes that render."""

    count: int = Field(0, ge=0, le=256)
    deadline_s: PositiveSeconds = 15
    start_timeout_s: PositiveSeconds = 20
    max_jobs: int = Field(2000, ge=1)
    max_queue: int = Field(64, ge=0, le=100_000)
    max_queue_wait_s: PositiveSeconds = 10
    retry_after_s: int = Field(2, ge=1, le=3600)
    quarantine_s: Seconds = 60
    max_memory_bytes: int = Field(1536 * _MIB, ge=256 * _MIB)

    @property
    def processes(self) -> int:
        """How many render; 0 means one for each core that this process may use."""
        return self.count or len(os.sched_getaffinity(0))


SourceType = Literal["jpeg", "png", "webp", "avif", "heic", "gif", "tiff", "bmp"]


class LimitSettings(Section):
    """What a source may be, checked before a pixel is decoded."""

    max_pixels: int = Field(100_000_000, ge=1)
    max_side: int = Field(16384, ge=1, le=65535)
    max_raw_bytes: int = Field(300_000_000, ge=1)
    max_bands: int = Field(5, ge=1, le=64)
    max_pages: int = Field(500, ge=1)
    max_animation_pixels: int = Field(100_000_000, ge=1)
    source_types: tuple[SourceType, ...] = (
        "jpeg",
        "png",
        "webp",
        "avif",
        "heic",
        "gif",
        "tiff",
        "bmp",
    )

    def to_limits(self) -> Limits:
        """The same as a value that travels with each job."""
        return Limits(**self.model_dump())


class SizeSettings(Section):
    """A named size."""

    width: Side | None = None
    height: Side | None = None
    fit: Fit = Fit.CONTAIN
    gravity: Gravity = Gravity.ATTENTION

    @model_validator(mode="after")
    def _check(self) -> SizeSettings:
        if self.width is None and self.height is None:
            message = "a size needs a width, a height or both"
            raise ValueError(message)
        if self.fit is Fit.COVER and (self.width is None or self.height is None):
            message = "fit = cover needs a width and a height"
            raise ValueError(message)
        return self


def _default_sizes() -> dict[str, SizeSettings]:
    return {
        "thumbnail": SizeSettings(width=300, height=300, fit=Fit.COVER),
        "small": SizeSettings(width=480),
        "grid": SizeSettings(width=500, height=500),
        "detail": SizeSettings(width=1200, height=1200),
        "header": SizeSettings(width=1600, height=500, fit=Fit.COVER),
        "zoom": SizeSettings(width=2400, height=2400),
    }


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

    def stages(self) -> dict[Format, Stages]:
        """How each format is encoded at once and in the end."""
        finals = {
            fmt: Stage(settings.profile(), settings.search(self.target))
            for fmt, settings in (
                (Format.JPEG, self.jpeg.final),
                (Format.WEBP, self.webp.final),
                (Format.AVIF, self.avif.final),
            )
        }
        drafts = {fmt: Stage(profile) for fmt, profile in self.profiles().items()}
        return {fmt: Stages(draft, finals.get(fmt, draft)) for fmt, draft in drafts.items()}

    def single_stages(self) -> dict[Format, Stages]:
        """The same without a second stage: what is encoded at once is final."""
        drafts = {fmt: Stage(profile) for fmt, profile in self.profiles().items()}
        return {fmt: Stages(draft, draft) for fmt, draft in drafts.items()}


def _profile(fmt: Format, **options: int | bool | str) -> EncoderProfile:
    return EncoderProfile(fmt, tuple(sorted(options.items())))


class UpgradeSettings(Section):
    """The background work that makes final renditions in place of drafts."""

    enabled: bool = True
    budget_s: Seconds = 0.15
    max_backlog: int = Field(1000, ge=1, le=1_000_000)
    deadline_s: PositiveSeconds = 300
    all_sizes: bool = True


class LifetimeSettings(Section):
    """For how long answers may be kept, in seconds."""

    serve_s: Lifetime = 31_536_000
    api_s: Lifetime = 3600
    api_stale_s: Lifetime = 86400
    unsettled_s: Lifetime = 30
    fallback_s: Lifetime = 30
    draft_s: Lifetime = 60
    draft_stale_s: Lifetime = 600
    not_found_s: Lifetime = 60
    not_ready_retry_s: int = Field(10, ge=1, le=3600)
    failure_s: Seconds = 10


class Settings(BaseSettings):
    """All settings; each room receives its own section, never the whole."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    data_dir: str = "var"
    server: ServerSettings = ServerSettings()
    log: LogSettings = LogSettings()
    database: DatabaseSettings = DatabaseSettings()
    storage: StorageSettings = StorageSettings()
    renditions: RenditionSettings = RenditionSettings()
    workers: WorkerSettings = WorkerSettings()
    limits: LimitSettings = LimitSettings()
    sizes: dict[str, SizeSettings] = Field(default_factory=_default_sizes)
    encoders: EncoderSettings = EncoderSettings()
    upgrades: UpgradeSettings = UpgradeSettings()
    lifetimes: LifetimeSettings = LifetimeSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keyword arguments alone: `load_settings` merges file and environment before."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @field_validator("sizes")
    @classmethod
    def _check_sizes(cls, sizes: dict[str, SizeSettings]) -> dict[str, SizeSettings]:
        if DEFAULT_SIZE not in sizes:
            message = f"must hold {DEFAULT_SIZE!r}, the size of a request that names none"
            raise ValueError(message)
        if wrong := [name for name in sizes if not _SIZE_NAME.fullmatch(name)]:
            message = (
                f"names are ASCII letters, digits, - and _, and not w with a number: not {wrong}"
            )
            raise ValueError(message)
        return sizes

    def size_specs(self) -> dict[str, SizeSpec]:
        """The named sizes as values of the request parser."""
        return {
            name: SizeSpec(name, size.width, size.height, size.fit, size.gravity)
            for name, size in self.sizes.items()
        }

    @property
    def data_path(self) -> Path:
        """The data directory, as an absolute path."""
        return Path(self.data_dir).absolute()

    @property
    def storage_root(self) -> Path:
        """The directory below which all originals are."""
        return (
            Path(self.storage.root).absolute()
            if self.storage.root
            else self.data_path / "originals"
        )

    @property
    def rendition_directory(self) -> Path:
        """The directory of the disk cache."""
        chosen = self.renditions.directory
        return Path(chosen).absolute() if chosen else self.data_path / "renditions"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL; an SQLite file in the data directory where none is set."""
        return self.database.url or f"sqlite+aiosqlite:///{self.data_path / 'smartserve.db'}"


def load_settings(
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """Load and check the settings: defaults, then the file, the environment, then ``overrides``.

    ``overrides`` are what the command line says, as nested mappings.

    Raises:
        ConfigurationError: with all faults, each naming key, value and what is allowed.
    """
    file_values = {} if config is None else _read_file(config)
    env = _Environment(Settings)()
    merged = _merge(_merge(file_values, env), overrides or {})
    faults = _unknown_variables()
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise ConfigurationError([*faults, *_sentences(error)]) from error
    if faults:
        raise ConfigurationError(faults)
    return settings


class _Environment(EnvSettingsSource):
    """The variables; a list may be written as JSON or with commas."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """What is no JSON is taken as it stands, so that its fault is told among all others."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return [part.strip() for part in value.split(",")]


def _read_file(config: Path) -> dict[str, Any]:
    try:
        with config.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError([f"{config}: cannot be read: {error.strerror}"]) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"{config}: {error}"]) from error


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another; tables are merged, all else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _unknown_variables() -> list[str]:
    """Misspelt sections: pydantic-settings passes over variables that fit no field.

    It takes names in any case, and so does this.
    """
    return [
        f"{name}: no such setting; sections are {', '.join(sorted(Settings.model_fields))}"
        for name in sorted(os.environ)
        if name.upper().startswith(ENV_PREFIX) and not _known_variable(name.upper())
    ]


def _known_variable(name: str) -> bool:
    section, *keys = name.removeprefix(ENV_PREFIX).lower().split("__")
    if name == CONFIG_VARIABLE:
        return True
    # What stands outside all sections, as data_dir does, has no keys below it.
    return section in Settings.model_fields and not (keys and section == "data_dir")


def _sentences(error: ValidationError) -> list[str]:
    """Each fault as a sentence: key, what is allowed, the value."""
    sentences = []
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        shown = "" if _secret(fault["loc"]) else f", not {fault['input']!r}"
        if fault["type"] == "extra_forbidden":
            sentences.append(f"{key}: no such setting")
        else:
            sentences.append(f"{key}: {fault['msg'].removeprefix('Value error, ')}{shown}")
    return sentences


def _secret(loc: Sequence[int | str]) -> bool:
    """Database URLs carry passwords; they are never printed, nor what stands for the section."""
    return loc[:1] == ("database",) and (len(loc) == 1 or "url" in loc)
