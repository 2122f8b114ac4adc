"""One frozen section for each room, and all of them together."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from proxy.domain.geometry import Fit, Gravity, SizeSpec
from proxy.domain.query import DEFAULT_SIZE
from proxy.domain.urls import images_base, local_base
from proxy.domain.worker_protocol import Limits
from proxy.settings.base import Lifetime, PositiveSeconds, Seconds, Section, Side
from proxy.settings.encoders import EncoderSettings
from proxy.settings.secrets import Key, require_one
from proxy.settings.tracing import TracingSettings
from proxy.settings.uploads import IngestSettings, MainSettings, UserSettings
from proxy.settings.vision import VisionSettings

ENV_PREFIX = "SMARTSERVE_"
_MIB = 1024 * 1024
_SIZE_NAME = re.compile(r"(?!w[0-9])[A-Za-z][A-Za-z0-9_-]{0,39}", re.ASCII)
"""``w640`` is what a width of the ladder is called in metrics and tags."""


class ServerSettings(Section):
    """The HTTP server."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    public_url: str = ""
    keepalive_s: PositiveSeconds = 75
    header_timeout_s: Seconds = 10
    write_timeout_s: Seconds = 30
    max_connections: int = Field(10_000, ge=0, le=1_000_000)
    drain_s: Seconds = 20
    max_header_bytes: int = Field(8190, ge=1024, le=65536)
    max_head_bytes: int = Field(32_768, ge=1024, le=1_048_576)


class AdminSettings(Section):
    """The routes that change something, and the key that they ask for."""

    enabled: bool = True
    key: Key = ""
    key_file: str = Field("", repr=False)
    max_failures: int = Field(10, ge=1, le=10_000)
    failure_window_s: PositiveSeconds = 60

    @model_validator(mode="after")
    def _check(self) -> AdminSettings:
        require_one(self, "key", "key_file")
        return self


class PageSettings(Section):
    """The page at ``/``."""

    enabled: bool | Literal["auto"] = "auto"


class LogSettings(Section):
    """Logs on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "json"
    access: bool = True


class DatabaseSettings(Section):
    """The media database and the cache of its rows."""

    url: str = Field("", repr=False)
    upgrade_on_start: bool = True
    pool_size: int = Field(8, ge=2, le=200)
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
    sandbox: bool = True
    require_sandbox: bool = False
    uid: int = Field(65534, ge=0, lt=2**32 - 1)
    nice: int = Field(10, ge=0, le=19)

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


class UpgradeSettings(Section):
    """The background work that makes final renditions in place of drafts."""

    enabled: bool = True
    budget_s: Seconds = 0.15
    max_backlog: int = Field(1000, ge=1, le=100_000)
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
    admin: AdminSettings = AdminSettings()
    page: PageSettings = PageSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    database: DatabaseSettings = DatabaseSettings()
    storage: StorageSettings = StorageSettings()
    renditions: RenditionSettings = RenditionSettings()
    workers: WorkerSettings = WorkerSettings()
    limits: LimitSettings = LimitSettings()
    sizes: dict[str, SizeSettings] = Field(default_factory=_default_sizes)
    encoders: EncoderSettings = EncoderSettings()
    upgrades: UpgradeSettings = UpgradeSettings()
    lifetimes: LifetimeSettings = LifetimeSettings()
    vision: VisionSettings = VisionSettings()
    main: MainSettings = MainSettings()
    users: UserSettings = UserSettings()
    ingest: IngestSettings = IngestSettings()

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

    @property
    def main_url(self) -> str:
        """The SQLAlchemy URL of the main database; the media database's where none is set."""
        return self.main.url or self.database_url

    @property
    def temp_root(self) -> Path:
        """The directory of the uploads that are not processed yet."""
        chosen = self.main.temp_root
        return Path(chosen).absolute() if chosen else self.data_path / "temp_images"

    @property
    def key_directory(self) -> Path:
        """The directory of the keys that the server made for itself."""
        return self.data_path / "keys"

    def local_url(self, port: int | None = None) -> str:
        """Return the server's address for clients on this machine; ``port`` is the bound one."""
        return local_base(self.server.host, port or self.server.port)

    def base_url(self, port: int | None = None) -> str:
        """Return the address that users see: ``server.public_url``, or else `local_url`."""
        return self.server.public_url.rstrip("/") or self.local_url(port)

    def images_base(self, port: int | None = None) -> str:
        """Return the base of the addresses that take the place of uploads in user profiles."""
        return images_base(self.main.smart_media_base_url, self.base_url(port))
