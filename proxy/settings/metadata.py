"""Settings of metadata extraction."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from proxy.settings.sections import MIB, PositiveSeconds, Section, WorkerSettings

_MAX_FILE_BYTES = 1024 * MIB


class MetadataSettings(Section):
    """Extraction of metadata: what files say about themselves.

    The environment variable `EXIFTOOL_PATH` names the exiftool script. If it is not set, the newest
    of npm's exiftool-vendored.pl and Debian's libimage-exiftool-perl is used. `PYTHON_PATH` names
    the interpreter of the confined processes.
    """

    enabled: bool = True
    """Serves the metadata routes. The engines start with the first file that is sent to them."""
    engine: Literal["exiftool", "pillow"] = "exiftool"
    """Program that reads the tags. "pillow" uses the fallback for every file: it reads EXIF, and
    little else."""
    c2pa: bool = True
    """Reads Content Credentials, if the extra `c2pa` is installed. Addresses in files are never
    fetched."""
    stealth: bool = True
    """Decodes PNG and WebP to read text that some generators hide in pixels."""
    c2pa_trust_list: str = ""
    """PEM file with the certificates of trusted issuers. Without it every issuer is untrusted: its
    name is what the file claims."""
    engines: int = Field(0, ge=0, le=256)
    """Number of resident exiftool processes, and of the processes that read containers. 0: one for
    each CPU core that the server may use."""
    queue: int = Field(64, ge=0, le=10_000)
    """Maximum number of files that wait for an engine. As many again may arrive meanwhile, or wait
    for a place in this queue; further uploads get 429 with Retry-After."""
    engine_timeout_s: PositiveSeconds = 20
    """CPU time that exiftool may use for a file. Then the process is replaced, and the fallback
    reads the file."""
    timeout_s: PositiveSeconds = 180
    """Time limit of one extraction, including the time in the queue."""
    upload_timeout_s: PositiveSeconds = 600
    """Time limit for the arrival of one upload; main.upload_stall_s limits each pause."""
    temp_root: str = "/tmp/metaextract"  # noqa: S108 - the folder is checked: see TempFolder
    """Folder of files while they are read. Created with mode 0700. If it is a link, or belongs to
    another user, it is refused."""
    default_tier: Literal["free", "professional", "forensic", "enterprise"] = "enterprise"
    """Tier of users whose token has no claim `tier`."""
    max_bytes_free: Annotated[int, Field(ge=1024, le=_MAX_FILE_BYTES)] = 10 * MIB
    """Maximum size of a file of the tier "free"."""
    max_bytes_professional: Annotated[int, Field(ge=1024, le=_MAX_FILE_BYTES)] = 100 * MIB
    """Maximum size of a file of the tier "professional"."""
    max_bytes_forensic: Annotated[int, Field(ge=1024, le=_MAX_FILE_BYTES)] = 500 * MIB
    """Maximum size of a file of the tier "forensic"."""
    max_bytes_enterprise: Annotated[int, Field(ge=1024, le=_MAX_FILE_BYTES)] = 1024 * MIB
    """Maximum size of a file of the tier "enterprise"."""
    anonymous: Literal["local", "everywhere", "never"] = "local"
    """Which clients may use /api/standalone-metadata/analyze and /api/analyze without a token, as
    tier "free" and at most 100 times in 15 minutes per address: those on this machine (not through
    a proxy), all, or none."""
    moderation_terms: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        ("violence", "explicit", "illegal"), max_length=1000
    )
    """Words that moderation reports if the prompt of an image contains them: whole words, in any
    letter case."""

    @model_validator(mode="after")
    def _check_ascending(self) -> Self:
        limits = (
            *(self.max_bytes_free, self.max_bytes_professional),
            *(self.max_bytes_forensic, self.max_bytes_enterprise),
        )
        if list(limits) != sorted(limits):
            raise ValueError(
                "max_bytes_free, max_bytes_professional, max_bytes_forensic and"
                " max_bytes_enterprise must not decrease in this order"
            )
        return self

    def worker_settings(self, workers: WorkerSettings) -> WorkerSettings:
        """Return the settings of the processes; the sandbox is that of ``workers``."""
        return workers.model_copy(
            update={
                "count": self.engines,
                "deadline_s": self.engine_timeout_s,
                "max_queue": self.queue,
                # Only `queue` limits: each extraction has a time limit of its own.
                "max_queue_wait_s": self.timeout_s,
                "max_memory_bytes": _WORKER_BYTES,
                "nice": _NICE,
            }
        )


_WORKER_BYTES = 1024 * MIB
_NICE = 19
"""Images are served first."""
