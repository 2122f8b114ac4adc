"""Sections of the settings that need no code of their own, and the base class of all sections.

The docstring below a field is its description in ``smartserve settings`` and ``config/``.
"""

from __future__ import annotations

import os
import re
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from proxy.domain.language import LANGUAGE_ADVICE, canonical_tag
from proxy.domain.urls import check_base_url
from proxy.domain.variant import MAX_SIDE, Fit, Gravity
from proxy.domain.worker_protocol import Limits
from proxy.settings.secrets import Key, checked

# The kernel's timeouts, such as TCP_USER_TIMEOUT, are 32-bit numbers of milliseconds: 24.8 days.
Seconds = Annotated[float, Field(ge=0, le=20 * 86400)]
PositiveSeconds = Annotated[float, Field(gt=0, le=86400)]
Lifetime = Annotated[int, Field(ge=0, le=10 * 365 * 86400)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]

MIB = 1024 * 1024
# Upper bounds that the kernel, libvips and the databases accept. JSON has numbers up to 2**53.
MAX_BYTES = 2**50
MAX_COUNT = 10**9


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    # Not os.cpu_count(), which includes cores that the container may not use.
    return len(os.sched_getaffinity(0))


BaseUrl = Annotated[str, checked(check_base_url)]
"""The base of addresses: scheme, host, optional port and path."""


def _check_network(text: str) -> str:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            "must be an IP address or a network such as 10.42.0.0/16; names are not resolved"
        ) from None
    if not network.prefixlen:
        raise ValueError("would trust every client; list the addresses of the proxies")
    if ip_address(text.partition("/")[0]) != network.network_address:
        raise ValueError(f"has bits set after its prefix; write {network}")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        raise ValueError("must not be an IPv4 address in the form of IPv6; write the IPv4 address")
    return text


Network = Annotated[str, AfterValidator(_check_network)]
"""An IP address, or a network in CIDR form."""


def _check_language(text: str) -> str:
    language = canonical_tag(text)
    if language is None:
        raise ValueError(f"must be {LANGUAGE_ADVICE}")
    return language


Language = Annotated[str, AfterValidator(_check_language)]
"""A language tag (BCP 47), in canonical case."""

# Header names and values (RFC 9110, 5.1 and 5.5), without the obsolete forms.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_HEADER_VALUE = re.compile(r"[ -~]*")


class Section(BaseModel):
    """A frozen part of the settings; unknown keys are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exclusive: ClassVar[tuple[str, ...]] = ()
    """Settings of which at most one may be set."""

    @model_validator(mode="after")
    def _check_exclusive(self) -> Self:
        # An empty setting counts as not set.
        if sum(bool(getattr(self, name)) for name in self.exclusive) > 1:
            *others, last = self.exclusive
            raise ValueError(f"set only one of {', '.join(others)} and {last}")
        return self


class ServerSettings(Section):
    """HTTP server."""

    host: str = "127.0.0.1"
    """Address to listen on. 127.0.0.1 accepts this machine only, 0.0.0.0 or :: all interfaces."""
    port: int = Field(8080, ge=0, le=65535)
    """TCP port. 0 selects a free port."""
    public_url: BaseUrl = ""
    """Address that users see, for example "https://img.example.org". Used in the output of `serve`
    and `import`, in profiles, in addresses sent to other servers, by /oembed and by `smartserve
    doctor`. If empty, host and port; then no addresses are written into profiles."""
    language: Language = "en"
    """Language (BCP 47) of alternative texts in /info and /oembed for requests without `lang`, and
    for images that have no text in the wanted language."""
    # nginx closes idle connections to its upstreams after 60 s.
    trusted_proxies: Annotated[tuple[Network, ...], Field(max_length=1000)] = (
        "127.0.0.0/8",
        "::1/128",
    )
    """Addresses and networks of reverse proxies and load balancers in front of this server, for
    example ["10.42.0.0/16"]. Only from these is the forwarded_header believed. The client is its
    rightmost address that is not in this list. Wrong keys are counted by that address, and access
    logs and traces have it. By default only proxies on this machine are trusted. List no network
    from which clients connect themselves: they could pretend to have any address."""
    forwarded_header: Literal["X-Forwarded-For", "Forwarded"] = "X-Forwarded-For"
    """Header in which the trusted proxies report the client's address. The other one is ignored: a
    proxy that sets one usually passes on the other as the client sent it."""
    keepalive_s: PositiveSeconds = 75
    """Time after which an idle connection is closed. Must be longer than the keep-alive time of
    a reverse proxy."""
    header_timeout_s: Seconds = 10
    """Time limit for the head of a request, and for the JSON bodies of POST /info and of what
    editors set. A new connection must send its first request within the same time. Then the server
    answers 408 and closes the connection. 0: keepalive_s."""
    write_timeout_s: Seconds = 30
    """Time after which a connection is closed if the client accepts no byte of a response. 0: no
    limit."""
    max_connections: int = Field(10_000, ge=0, le=1_000_000)
    """Maximum number of open connections. Above it the server answers 503, except that a few
    connections are reserved for /healthz, /readyz and /metrics. If the limit of open files is too
    low, this value is lowered at start and a warning is logged. 0: as many as that limit allows."""
    lame_duck_s: float = Field(5, ge=0, le=600)
    """Time after SIGTERM in which the server still accepts connections, while /readyz fails and
    each response closes its connection. Must be longer than a load balancer needs to notice. A
    second signal, or Ctrl-C, ends this time."""
    drain_s: Seconds = 20
    """Time that running requests have to finish after lame_duck_s. The service manager must kill
    the process only after both times and five seconds more."""
    processes: int = Field(0, ge=0, le=64)
    """Number of server processes that accept connections on the port. Cores, caches and limits are
    divided among them; see deploy/PROCESSES.md. 0: one for each four CPU cores that the server may
    use, but no more than workers.count / 4. With one, there is no parent process."""
    # As in aiohttp and Apache.
    max_header_bytes: int = Field(8190, ge=1024, le=65536)
    """Maximum length of the request line, and of each header line."""
    max_head_bytes: int = Field(32_768, ge=1024, le=1_048_576)
    """Maximum length of the request line and all header lines together."""


class AdminSettings(Section):
    """Routes that change something. They require the header `Authorization: Bearer KEY`."""

    exclusive = ("key", "key_file")

    enabled: bool = True
    """Enables the admin routes. Without a key they reject every request, and the server does not
    start if other machines can reach it."""
    key: Key = ""
    """Admin key: at least 16 of the characters A-Z a-z 0-9 - . _ ~ + /. To create one, run
    `openssl rand -hex 32`. Set it in the environment (SMARTSERVE_ADMIN__KEY) or in a file; it is
    never printed."""
    key_file: str = Field("", repr=False)
    """File that contains the admin key, for example a Docker or Kubernetes secret. Read at
    start."""
    max_failures: int = Field(10, ge=1, le=10_000)
    """Number of wrong keys from one address (IPv6: one /64 network) after which the address is
    blocked for failure_window_s. Ten times as many from all addresses together block every address
    after its first wrong key. A right key is always accepted."""
    failure_window_s: PositiveSeconds = 60
    """Time for which an address is blocked after its last wrong key."""


class PageSettings(Section):
    """Gallery page at /."""

    enabled: bool | Literal["auto"] = "auto"
    """Enables the page, which lists every image to anyone who can reach it. "auto" enables it if
    server.host is a loopback address and neither database.url nor server.public_url is set. The web
    component /static/smart-image.js is always available."""


class LogSettings(Section):
    """Logs. They are written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum level of a logged event."""
    format: Literal["json", "console"] = "json"
    """"json" writes one object per line, "console" a form that is easier to read."""
    access: bool = True
    """Logs every request."""


class TracingSettings(Section):
    """OpenTelemetry traces, sent by OTLP over HTTP.

    Requires the extra `otel`: pip install 'smartserve[otel]'. The variables OTEL_EXPORTER_OTLP_*
    and OTEL_SERVICE_NAME replace settings that are empty; OTEL_RESOURCE_ATTRIBUTES adds attributes
    of the server.
    """

    enabled: bool = False
    """Enables tracing."""
    # A span takes the SDK 0.1 ms, where a whole hit takes 0.02 ms.
    ratio: float = Field(0.01, ge=0, le=1)
    """Fraction of requests and background jobs that are traced, unless honour_parent applies."""
    honour_parent: bool = False
    """Continues the trace of a request's `traceparent` header and follows its sampling decision.
    Enable this only if the CDN or reverse proxy sets the header itself: otherwise clients can
    have all their requests traced."""
    service_name: str = Field("", max_length=200)
    """Service name in traces. If empty, OTEL_SERVICE_NAME, or "smartserve"."""
    endpoint: str = Field("", pattern=r"^(https?://[^\s#]+)?$", repr=False)
    """Full address of the collector, for example "http://collector:4318/v1/traces". If empty,
    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT, or port 4318 of this
    machine."""
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    """Headers sent to the collector, for example { Authorization = "Bearer ..." }. Set them in the
    environment (SMARTSERVE_TRACING__HEADERS, as JSON); they are never printed."""
    max_queue: int = Field(2048, ge=1, le=1_000_000)
    """Maximum number of spans that wait to be sent. Further spans are dropped and counted."""
    flush_s: Seconds = 2
    """Time limit for sending the waiting spans when the server stops."""

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        # The fault does not repeat values: they are usually keys.
        if wrong := [name for name in headers if not _HEADER_NAME.fullmatch(name)]:
            raise ValueError(f"header names must be ASCII without spaces, not {wrong}")
        if wrong := [name for name, value in headers.items() if not _HEADER_VALUE.fullmatch(value)]:
            raise ValueError(f"header values must be printable ASCII; check those of {wrong}")
        return headers


class DatabaseSettings(Section):
    """Media database and the cache of its rows."""

    url: str = Field("", repr=False)
    """SQLAlchemy URL: sqlite+aiosqlite:///FILE or mysql+aiomysql://USER:PASSWORD@HOST/NAME (MySQL
    8, MariaDB 10.6 or later). If empty, an SQLite file in data_dir. Set a URL with a password in
    the environment (SMARTSERVE_DATABASE__URL); it is never printed. For TLS append ?ssl=true
    (certificates of this machine) or ?ssl_ca=FILE; ssl_cert and ssl_key are the server's own, and
    ssl_check_hostname=false accepts any name in the certificate of the database."""
    upgrade_on_start: bool = True
    """Migrates the schema at start. If false and the schema is outdated, the server does not start;
    run `smartserve db upgrade`."""
    pool_size: int = Field(8, ge=2, le=200)
    """Maximum number of connections for serving images. In addition \\[main\\] uses up to 4, and an
    ingest worker ingest.concurrency + 2."""
    # wait_timeout is 8 hours by default; many firewalls forget idle connections after one.
    pool_recycle_s: PositiveSeconds = 1800
    """Age at which a connection is replaced. Must be below wait_timeout of the database."""
    connect_timeout_s: PositiveSeconds = 3
    """Time limit for getting a connection."""
    query_timeout_s: PositiveSeconds = 5
    """Time limit for a query."""
    row_ttl_s: Seconds = 60
    """Time for which a row is cached. A change in the database takes effect within 2 s, or after
    this time and row_stale_s if `updated_at` does not show it, as after a DELETE."""
    row_stale_s: Seconds = 300
    """Time after row_ttl_s in which a row is used once more while it is read again, with others by
    one query. Never after a change was noticed. With 0 the request waits for its row."""
    negative_ttl_s: Seconds = 5
    """Time for which it is cached that an id has no row."""
    max_rows: int = Field(100_000, ge=1, le=MAX_COUNT)
    """Maximum number of cached rows, about 2 KB each. They are served even if the database is
    down."""
    purge_retention_days: float = Field(30, ge=1, le=3650)
    """Time for which purges are kept in the database, equal on all servers. A server that was away
    for longer deletes all renditions on its disk when it starts."""
    retry_after_s: int = Field(5, ge=1, le=3600)
    """Retry-After of the 503 response for an uncached id while the database is down."""
    breaker_s: Seconds = 1
    """Time for which no query is sent after the database failed (circuit breaker)."""


class StorageSettings(Section):
    """Storage of the original images."""

    root: str = ""
    """Directory of all originals. Paths in the database are relative to it. If empty, `originals`
    in data_dir; any other directory must exist."""
    strip_prefix: str = ""
    """Prefix that is removed from absolute paths in the database, for example
    "/var/www/media-backend/storage". If empty, root."""
    max_original_bytes: int = Field(100 * MIB, ge=1024, le=MAX_BYTES)
    """Maximum size of an original that is imported or opened."""
    open_timeout_s: PositiveSeconds = 5
    """Time limit for opening an original, for example on a network file system."""
    max_fetched_bytes: int = Field(256 * MIB, ge=MIB, le=MAX_BYTES)
    """Maximum size of all originals together that one server holds in memory because they were
    fetched from another server. Further ones wait. A single larger one is fetched alone."""


class RenditionSettings(Section):
    """Caches of rendered images, in memory and on disk."""

    directory: str = ""
    """Directory of the disk cache. Several servers may share it. If empty, `renditions` in
    data_dir; any other directory must exist."""
    memory_max_bytes: int = Field(256 * MIB, ge=0, le=MAX_BYTES)
    """Maximum size of the memory cache of one server. 0 disables it."""
    memory_max_item_bytes: int = Field(4 * MIB, ge=0, le=MAX_BYTES)
    """Maximum size of a rendition in the memory cache. Larger ones are always read from disk."""
    disk_max_bytes: int = Field(10 * 1024 * MIB, ge=MIB, le=MAX_BYTES)
    """Maximum size of the disk cache (high-water mark). Above it renditions are evicted: those that
    are seldom used, large, old and quick to render come first."""
    disk_low_water: float = Field(0.9, gt=0, lt=1)
    """Fraction of disk_max_bytes at which an eviction stops (low-water mark)."""
    disk_min_free_inodes: float = Field(0.05, ge=0, lt=1)
    """Fraction of the file system's inodes that stays free. Below it renditions are evicted too. It
    has no effect if the file system creates inodes as needed (XFS, Btrfs, NFS)."""
    scan_interval_s: PositiveSeconds = 3600
    """Interval at which the directory is scanned to correct its measured size. Of several processes
    with one directory, one scans it."""
    max_rendition_bytes: int = Field(64 * MIB, ge=MIB, le=MAX_BYTES)
    """Maximum size of a rendition. A render that exceeds it is aborted."""


class WorkerSettings(Section):
    """Worker processes, which render images."""

    count: int = Field(0, ge=0, le=256)
    """Number of worker processes. 0: one for each CPU core that the server may use."""
    deadline_s: PositiveSeconds = 15
    """CPU time that a job may use. Then its process is killed, and so is one that hangs for this
    long."""
    wall_clock_factor: float = Field(4, ge=1, le=100)
    """On a busy machine a job may take this many times its limit of CPU time. After that it is
    answered with 503, and its image is not blamed. Applies to every limit of CPU time."""
    start_timeout_s: PositiveSeconds = 20
    """CPU time that a process may use to start."""
    max_jobs: int = Field(2000, ge=1, le=MAX_COUNT)
    """Number of jobs after which a process is replaced."""
    max_queue: int = Field(1000, ge=0, le=100_000)
    """Maximum number of jobs that wait for a worker, which limits memory and open files: each job
    needs one of them."""
    max_queue_wait_s: PositiveSeconds = 10
    """Maximum predicted time that a job waits in the queue, by the service times of the jobs before
    it. If it is longer, the request is answered at once with the nearest cached size, or with 503.
    A job that nevertheless waits twice as long is rejected."""
    retry_after_s: int = Field(2, ge=1, le=3600)
    """Retry-After of the 503 response if the queue is full or too slow."""
    quarantine_s: Seconds = 60
    """Time for which an image is rejected after it crashed its worker or exceeded the deadline. The
    time doubles with each failure."""
    max_memory_bytes: int = Field(1536 * MIB, ge=256 * MIB, le=MAX_BYTES)
    """Maximum address space of one process."""
    sandbox: bool = True
    """Confines each process before it reads an image: no files, no network, no other programs.
    Disable it only to debug a worker; max_memory_bytes has no effect then."""
    require_sandbox: bool = False
    """Refuses to start if the kernel lacks a part of the sandbox. If false, the lack is logged and
    the metric smartserve_sandbox is 0."""
    # The highest number is excluded: setresuid(2) takes it as "unchanged".
    uid: int = Field(65534, ge=0, lt=2**32 - 1)
    """User id of the processes if the server runs as root. 65534 is nobody, 0 keeps root."""
    # 5 is a third of the weight of a program with 0, 10 a tenth; figures in deploy/OPERATING.md.
    nice: int = Field(5, ge=0, le=19)
    """CPU priority of the processes, as nice(1): with a higher value the server delivers finished
    images even if every core renders, and new images wait longer beside other busy programs.
    Background jobs have the lowest priority, see upgrades.idle_priority."""

    system_fonts: bool = False
    """Draws the text of SVGs also with the fonts in /usr/share/fonts and /usr/local/share/fonts. If
    false, only with those of the extra svg, which are the same on every server. After a change,
    purge the SVGs that have text."""

    @property
    def processes(self) -> int:
        """Number of worker processes, with 0 resolved to the available cores."""
        return self.count or available_cores()


SourceType = Literal[
    "jpeg", "png", "webp", "avif", "heic", "gif", "tiff", "bmp", "ico", "jp2", "jxl", "svg"
]


class LimitSettings(Section):
    """Limits of an original. They are checked on its header before a pixel is decoded.

    An image that exceeds a limit is answered with 422.
    """

    max_pixels: int = Field(100_000_000, ge=1, le=MAX_BYTES)
    """Maximum number of pixels of one page: width x height."""
    max_side: int = Field(16384, ge=1, le=65535)
    """Maximum length of the longer side in pixels."""
    max_raw_bytes: int = Field(300_000_000, ge=1, le=MAX_BYTES)
    """Maximum decoded size of one page: width x height x bands x bytes per band."""
    max_bands: int = Field(5, ge=1, le=64)
    """Maximum number of bands. RGBA and CMYK have 4, CMYK with alpha has 5."""
    max_pages: int = Field(500, ge=1, le=MAX_COUNT)
    """Maximum number of frames of an animation."""
    max_animation_pixels: int = Field(100_000_000, ge=1, le=MAX_BYTES)
    """Maximum number of pixels of all frames together."""
    source_types: tuple[SourceType, ...] = get_args(SourceType)
    """Accepted file types, detected by content. Other types, and types whose decoder is not
    installed, are answered with 415."""

    def to_limits(self) -> Limits:
        """Return the limits as the value that travels with each job."""
        # Both have the same fields: a limit that only one of them has is an error here.
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
            raise ValueError("a size needs a width, a height or both")
        # To fill a box and crop the rest, both of its sides must be known.
        if self.fit is Fit.COVER and (self.width is None or self.height is None):
            raise ValueError("fit = cover needs a width and a height")
        return self


class FaceSettings(Section):
    """Detection of faces, so that crops keep them.

    It needs the extra `faces` and the model that `smartserve models install` downloads. Without
    them, crops keep the point of interest.
    """

    enabled: bool = True
    """Detects the faces of an image before its first crop. If false, faces that are stored have no
    effect either."""
    directory: str = ""
    """Directory of the model. If empty, `models` in data_dir."""
    wait_s: Seconds = 5
    """Time that a request waits for the faces. After that its crop keeps the point of interest, and
    is cached for lifetimes.fallback_s."""
    idle_s: PositiveSeconds = 300
    """Time without a detection after which the process ends. It takes 90 MB of memory, and starts
    with the next image."""


class UpgradeSettings(Section):
    """Background jobs that replace drafts with finals.

    They run in one more worker process. The most requested images come first.
    """

    enabled: bool = True
    """Renders finals. If false, every rendition is a draft and is cached for a year."""
    idle_priority: bool = True
    """Renders finals only while the processor is otherwise idle. Set it to false if other programs
    always use all processors: finals then have the priority of workers.nice."""
    budget_s: Seconds = 0.15
    """CPU seconds. If a final is predicted to take less, it is rendered immediately, without a
    draft. The prediction is learned from previous renders."""
    max_backlog: int = Field(1000, ge=1, le=100_000)
    """Maximum number of waiting finals. A further one is dropped until its draft is requested
    again."""
    deadline_s: PositiveSeconds = 300
    """CPU time that one final may use. One job renders many finals from one decoded image."""
    all_sizes: bool = True
    """Renders every named size and format of an image after the first request for one of them."""
    remakes_per_minute: int = Field(60, ge=0, le=100_000)
    """After a change of the recipe (encoder settings, copyright, libvips, a new release) stored
    renditions are served as drafts until they are rendered again. Maximum number that one server
    renders again in a minute, when no other final waits. 0 renders none."""


class LifetimeSettings(Section):
    """Cache lifetimes (max-age) of responses in browsers and CDNs, in seconds."""

    serve_s: Lifetime = 31_536_000
    """Images under /serve. The default is a year."""
    api_s: Lifetime = 3600
    """Images under /api/images, and descriptions (/info, /oembed). The default is an hour."""
    api_stale_s: Lifetime = 86400
    """Time after api_s in which a cache may deliver the old image while it revalidates it
    (stale-while-revalidate). The default is a day."""
    processing_s: Lifetime = 30
    """Images that are still being processed and are rendered from their original, and their
    descriptions."""
    fallback_s: Lifetime = 30
    """Fallbacks: another size of the requested image, or the image with its background; and
    descriptions for which the original or the database could not be read."""
    draft_s: Lifetime = 60
    """Drafts, which a final will replace."""
    draft_stale_s: Lifetime = 600
    """Time after draft_s in which a cache may deliver the draft while it revalidates it
    (stale-while-revalidate)."""
    signed_shared: bool = False
    """Lets CDNs and other shared caches keep the responses to signed URLs until these expire
    (public, s-maxage). If false, only the browser may (private). A cache in front must have the
    whole URL in its key, with the signature: see deploy/PRIVATE.md."""
    not_found_s: Lifetime = 60
    """Responses with status 404."""
    not_ready_retry_s: int = Field(10, ge=1, le=3600)
    """Retry-After for an image that is still being processed and has no original yet."""
    failure_s: Seconds = 10
    """Time for which the server rejects an image that could not be decoded without decoding it
    again. This is not sent to clients."""
