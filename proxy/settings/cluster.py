"""Settings of several servers that serve the same images."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field

from proxy.settings.secrets import checked
from proxy.settings.sections import Section

# Others would reach the driver as arguments that it does not have, or change its timeouts.
_OPTIONS = frozenset({"db", "username", "password", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_FORMS = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS) or unix:///PATH?db=DB"


def _check_redis_url(url: str) -> None:
    # Messages do not repeat the URL, which may contain a password.
    parts = urlsplit(url)
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError(f"must be {_FORMS}")
    try:
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        host = None
    if not (parts.path if parts.scheme == "unix" else host):
        raise ValueError(f"has no valid host, port or path: must be {_FORMS}")
    database = parts.path.strip("/")
    options = parse_qs(parts.query, keep_blank_values=True)
    numbers = options.get("db", [] if parts.scheme == "unix" or not database else [database])
    if not all(one.isascii() and one.isdigit() for one in numbers):
        raise ValueError(f"has no valid number of a database: must be {_FORMS}")
    if unknown := sorted(options.keys() - _OPTIONS):
        raise ValueError(f"has unknown options {unknown}; allowed are {sorted(_OPTIONS)}")


class ClusterSettings(Section):
    """Several servers. All of them work with the database alone; Redis makes them faster."""

    redis_url: Annotated[str, checked(_check_redis_url), Field(repr=False, max_length=4096)] = ""
    """Redis (6 or later) or Valkey: redis://HOST:6379/0, rediss:// with TLS, or unix:///PATH. Set a
    URL with a password in the environment (SMARTSERVE_CLUSTER__REDIS_URL); it is never printed.
    Redis holds nothing that must survive: if it fails, the servers use the database. If empty,
    Redis is not used."""
    redis_prefix: str = Field("smartserve:", pattern=r"^[A-Za-z0-9:._-]{1,64}$")
    """Prefix of all keys and channels in Redis, equal on all servers of an installation.
    Installations that share a Redis need different ones: channels are common to all databases of a
    Redis."""
    redis_timeout_s: float = Field(1, gt=0, le=60)
    """Time limit for a command to Redis. After a failure none is sent for five seconds (circuit
    breaker)."""
    render_once: bool | Literal["auto"] = "auto"
    """Of several servers, or server processes, that miss the same rendition, one renders it, and
    the others use its result: from Redis, from the rendition directory if they share it, or from
    the object store. They wait 1.5 s for a server that sends no heartbeat. "auto": with Redis,
    or with several processes. Set true for servers that share the rendition directory without
    Redis; its file system must have locks."""
