"""Settings of metadata extraction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from proxy.settings.secrets import Key, generated_key, stored_key
from proxy.settings.sections import MAX_BYTES, MIB, PositiveSeconds, Section, WorkerSettings

CallbackHost = Annotated[
    str, Field(pattern=r"^([a-z0-9-]+(\.[a-z0-9-]+)*|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?$")
]
"""A host name in lower case (international ones in Punycode) or an address, and perhaps a port."""

_MAX_FILE_BYTES = 1024 * MIB


class MetadataSettings(Section):
    """Extraction of metadata: what files say about themselves.

    The environment variable `EXIFTOOL_PATH` names the exiftool script. If it is not set, the newest
    of npm's exiftool-vendored.pl and Debian's libimage-exiftool-perl is used. `PYTHON_PATH` names
    the interpreter of the confined processes.
    """

    exclusive = ("callback_key", "callback_key_file")

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
    """Folder for files whose metadata is being read. It is created with mode 0700. No metadata is
    read if the folder is a link, if it belongs to another user, or if it has other contents and
    other users may write to it. Other contents are never deleted."""
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
    """Clients that may use /api/standalone-metadata/analyze, /api/analyze, /api/metadata/moderate
    and /ws/analysis without a token. "local": clients on this machine that do not connect through a
    proxy; "everywhere": all clients; "never": none. Such clients have the tier "free" and 100
    requests in 15 minutes per address."""
    sockets: int = Field(1000, ge=1, le=100_000)
    """Maximum number of open WebSockets (/ws/analysis, /api/images_mvp/progress) of this server.
    Each one is a connection, too: see server.max_connections."""
    sockets_per_user: int = Field(20, ge=1, le=100_000)
    """Maximum number of open WebSockets of one user, or of one address without a token."""
    moderation_terms: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field(
        ("violence", "explicit", "illegal"), max_length=1000
    )
    """Words that moderation reports if the prompt of an image contains them: whole words, in any
    letter case."""

    concurrency: int = Field(3, ge=1, le=64)
    """Maximum number of jobs that this server runs at the same time."""
    job_root: str = ""
    """Directory of the files of jobs, until they have ended. Servers that share it run each other's
    jobs; it must not be shared by servers with different databases. If empty, `metadata_jobs` in
    data_dir."""
    job_lease_s: float = Field(30, ge=2, le=3600)
    """Time without a heartbeat after which another server takes over a job."""
    job_attempts: int = Field(3, ge=1, le=10)
    """Maximum number of attempts at a job. An attempt whose server was killed counts."""
    job_backoff_s: PositiveSeconds = 10
    """Delay before the second attempt, on average. It doubles with each attempt."""
    job_retention_s: float = Field(86_400, ge=60, le=30 * 86_400)
    """Time for which the result of a job is kept. A job that no server has run for this time
    fails."""
    nice: int = Field(19, ge=0, le=19)
    """CPU priority of the engines, as nice(1). With 19, images are served first, and a file takes
    up to 60 times as long while other programs use all processors. A lower value avoids that."""
    max_jobs: int = Field(10_000, ge=1, le=1_000_000)
    """Maximum number of unfinished jobs of all users. A further one is rejected."""
    max_jobs_per_user: int = Field(1000, ge=1, le=1_000_000)
    """Maximum number of unfinished jobs of one user; MEDIA_API_KEY has no such limit."""
    callback_hosts: tuple[CallbackHost, ...] = Field((), max_length=1000)
    """Hosts to which callbacks may be sent, for example ["hooks.example.org"]. Add the port if it
    is not 80 (http) or 443 (https). Private addresses are always refused."""
    callback_key: Key = ""
    """Key of the signature of callbacks, at least 16 characters; to create one, run `openssl rand
    -hex 32`. If empty, one is generated and stored in `keys` in data_dir. Servers that run each
    other's jobs need the same key."""
    callback_key_file: str = Field("", repr=False)
    """File that contains the key. Read at start."""
    cache_ttl_s: float = Field(3600, ge=0, le=30 * 86_400)
    """Time for which an extraction is kept in the database, for files with the same content. 0: no
    cache."""
    cache_rows: int = Field(10_000, ge=1, le=1_000_000)
    """Maximum number of extractions that are kept. The oldest are deleted first."""
    cache_bytes: int = Field(256 * MIB, ge=MIB, le=MAX_BYTES)
    """Maximum size of all extractions that are kept."""

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
                "nice": self.nice,
            }
        )


_WORKER_BYTES = 1024 * MIB


def callback_key(section: MetadataSettings, key_directory: Path) -> str:
    """Return the key of callbacks from the settings, its file, or the generated one.

    Blocking: call it at start.

    Raises:
        ConfigurationError: a file cannot be read or created, or contains no valid key.
    """
    setting = "metadata.callback_key_file"
    key = stored_key(section.callback_key, section.callback_key_file, setting=setting)
    return key or generated_key(key_directory, "callback")
