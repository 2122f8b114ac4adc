"""The settings as a whole: all sections, and the paths and addresses that follow from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import ConfigDict, Field, PrivateAttr, field_validator

from proxy.domain.request import DEFAULT_SIZE
from proxy.domain.urls import check_public_url, images_base, local_base
from proxy.domain.variant import Fit, SizeSpec
from proxy.settings import sections
from proxy.settings.access import AccessSettings
from proxy.settings.client_hints import ClientHintSettings
from proxy.settings.cluster import ClusterSettings
from proxy.settings.encoders import EncoderSettings
from proxy.settings.http import HttpSettings
from proxy.settings.metadata import MetadataSettings
from proxy.settings.object_storage import S3Settings
from proxy.settings.sections import Section, SizeSettings
from proxy.settings.uploads import IngestSettings, MainSettings, UserSettings
from proxy.settings.vision import VisionSettings

ENV_PREFIX = "SMARTSERVE_"
# ``w640`` is excluded: metrics and cache tags use it for the width 640.
_SIZE_NAME = re.compile(r"(?!w[0-9])[A-Za-z][A-Za-z0-9_-]{0,39}", re.ASCII)


# Four workers keep about one process busy that delivers what they render.
_CORES_PER_PROCESS = 4


def _default_sizes() -> dict[str, SizeSettings]:
    return {
        "thumbnail": SizeSettings(width=300, height=300, fit=Fit.COVER),
        "small": SizeSettings(width=480),
        "grid": SizeSettings(width=500, height=500),
        "detail": SizeSettings(width=1200, height=1200),
        "header": SizeSettings(width=1600, height=500, fit=Fit.COVER),
        "zoom": SizeSettings(width=2400, height=2400),
    }


class Settings(Section):
    """All settings. A component receives its own section, never the whole."""

    model_config = ConfigDict(hide_input_in_errors=True)

    data_dir: str = "var"
    """Directory of everything that has no directory of its own below: the SQLite database, the
    originals, the renditions, the keys. Created if it does not exist."""
    server: sections.ServerSettings = sections.ServerSettings()
    admin: sections.AdminSettings = sections.AdminSettings()
    access: AccessSettings = AccessSettings()
    page: sections.PageSettings = sections.PageSettings()
    log: sections.LogSettings = sections.LogSettings()
    tracing: sections.TracingSettings = sections.TracingSettings()
    database: sections.DatabaseSettings = sections.DatabaseSettings()
    cluster: ClusterSettings = ClusterSettings()
    storage: sections.StorageSettings = sections.StorageSettings()
    s3: S3Settings = S3Settings()
    http: HttpSettings = HttpSettings()
    renditions: sections.RenditionSettings = sections.RenditionSettings()
    workers: sections.WorkerSettings = sections.WorkerSettings()
    limits: sections.LimitSettings = sections.LimitSettings()
    sizes: dict[str, SizeSettings] = Field(default_factory=_default_sizes)
    """Sizes for the parameter `size`. If this section is present, it must define every size,
    including `detail`, which is used if a request names none. A name consists of ASCII letters,
    digits, - and _. `width` and `height` are the box in CSS pixels; one of them may be left out.
    Images are never enlarged. `fit`: "contain" fits the whole image into the box, "cover" fills the
    box and crops the rest; it needs width and height. `gravity` is what "cover" keeps: "attention"
    keeps faces or else the point of interest, "centre" the centre."""
    encoders: EncoderSettings = EncoderSettings()
    client_hints: ClientHintSettings = ClientHintSettings()
    faces: sections.FaceSettings = sections.FaceSettings()
    upgrades: sections.UpgradeSettings = sections.UpgradeSettings()
    lifetimes: sections.LifetimeSettings = sections.LifetimeSettings()
    vision: VisionSettings = VisionSettings()
    metadata: MetadataSettings = MetadataSettings()
    main: MainSettings = MainSettings()
    users: UserSettings = UserSettings()
    ingest: IngestSettings = IngestSettings()

    _renamed: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @property
    def renamed(self) -> Mapping[str, str]:
        """New names of the settings that were given under their old name."""
        return self._renamed

    def with_renamed(self, names: Mapping[str, str]) -> Self:
        """Store the old names that were used, and return the settings."""
        self._renamed = names
        return self

    @field_validator("sizes")
    @classmethod
    def _check_sizes(cls, sizes: dict[str, SizeSettings]) -> dict[str, SizeSettings]:
        # Every request without size= depends on it.
        if DEFAULT_SIZE not in sizes:
            raise ValueError(f"must define {DEFAULT_SIZE!r}, the size of a request that names none")
        # Names are values of a query parameter and labels of metrics.
        if wrong := [name for name in sizes if not _SIZE_NAME.fullmatch(name)]:
            raise ValueError(
                "names must consist of ASCII letters, digits, - and _, and must not be w with a"
                f" number: not {wrong}"
            )
        return sizes

    def size_specs(self) -> dict[str, SizeSpec]:
        """Return the named sizes as values of the request parser."""
        return {
            name: SizeSpec(name, size.width, size.height, size.fit, size.gravity)
            for name, size in self.sizes.items()
        }

    @property
    def process_count(self) -> int:
        """Number of server processes, with 0 resolved."""
        cores = min(sections.available_cores(), self.workers.processes)
        return self.server.processes or max(1, cores // _CORES_PER_PROCESS)

    @property
    def renders_once(self) -> bool:
        """Whether processes agree on who renders: `cluster.render_once` with "auto" resolved."""
        wanted = self.cluster.render_once
        automatic = bool(self.cluster.redis_url) or self.process_count > 1
        return automatic if wanted == "auto" else wanted

    @property
    def data_path(self) -> Path:
        """Absolute path of the data directory."""
        return Path(self.data_dir).absolute()

    def _directory(self, configured: str, name: str) -> Path:
        return Path(configured).absolute() if configured else self.data_path / name

    @property
    def storage_root(self) -> Path:
        """Directory of all originals."""
        return self._directory(self.storage.root, "originals")

    @property
    def rendition_directory(self) -> Path:
        """Directory of the disk cache."""
        return self._directory(self.renditions.directory, "renditions")

    @property
    def face_directory(self) -> Path:
        """Directory of the model of the face detector."""
        return self._directory(self.faces.directory, "models")

    @property
    def temp_root(self) -> Path:
        """Directory of the uploads that are not processed yet."""
        return self._directory(self.main.temp_root, "temp_images")

    @property
    def metadata_job_root(self) -> Path:
        """Directory of the files of metadata jobs."""
        return self._directory(self.metadata.job_root, "metadata_jobs")

    @property
    def key_directory(self) -> Path:
        """Directory of the keys that the server generated."""
        return self.data_path / "keys"

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the media database; by default an SQLite file in the data directory."""
        return self.database.url or f"sqlite+aiosqlite:///{self.data_path / 'smartserve.db'}"

    @property
    def main_url(self) -> str:
        """SQLAlchemy URL of the main database; by default the media database."""
        return self.main.url or self.database_url

    def local_url(self, port: int | None = None) -> str:
        """Return the server's address for clients on this machine; ``port`` is the bound one."""
        return local_base(self.server.host, port or self.server.port)

    def base_url(self, port: int | None = None) -> str:
        """Return the address that users see: ``server.public_url``, or else `local_url`."""
        return self.server.public_url.rstrip("/") or self.local_url(port)

    def images_base(self, port: int | None = None) -> str:
        """Return the base of the addresses that replace uploads in user profiles."""
        return images_base(self.main.smart_media_base_url, self.base_url(port))

    def unreachable_fault(self, base: str) -> str:
        """Return why a base address must not be stored by others, with advice; empty if it may."""
        try:
            check_public_url(base)
        except ValueError as error:
            if not self.main.allow_loopback_url:
                return (
                    f"{base} {error}: set server.public_url or main.smart_media_base_url"
                    " (for tests on one machine, main.allow_loopback_url = true)"
                )
        return ""
