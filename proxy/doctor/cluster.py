"""Checks of what several servers share: Redis, and locks in the rendition directory."""

from __future__ import annotations

import asyncio

from proxy.doctor.check import Finding, Findings, area, as_time, fail, ok, skip, warn
from proxy.doctor.installation import Installation
from proxy.runtime.redis import RedisFault
from proxy.settings import Settings
from proxy.storage.renditions.diagnostics import local_lock_mount
from proxy.storage.renditions.render_locks import probe_locks

_WITHOUT = "until then purges reach other servers within two seconds, and each server renders"

_ADVICE = {
    RedisFault.UNREACHABLE: "start Redis, or correct cluster.redis_url",
    RedisFault.TIMEOUT: "check the load of Redis (redis-cli --latency), that no firewall drops"
    " packets, and that cluster.redis_url has rediss:// only for a port with TLS, or raise"
    " cluster.redis_timeout_s",
    RedisFault.REFUSED: "check user, password and database number in cluster.redis_url, and that it"
    " names the primary; the user needs PING, EVAL, GET, SET, PUBLISH and SUBSCRIBE on keys and"
    " channels that begin with cluster.redis_prefix",
}


@area("redis", "render locks")
async def check_cluster(installation: Installation) -> Findings:
    """Send Redis the commands that servers need; lock one byte in two open files."""
    yield await check_redis(installation)
    settings = installation.settings
    if not settings.renders_once:
        yield skip("no other server shares the rendition directory (cluster.render_once)")
    else:
        yield await asyncio.to_thread(check_locks, settings)


async def check_redis(installation: Installation) -> Finding:
    """Report a Redis that does not answer in time, or refuses what servers need."""
    if installation.redis is None:
        return skip("cluster.redis_url is not set")
    found = await installation.redis()
    if found.fault is None:
        return ok(f"PING answered in {as_time(found.ping_s)}")
    return fail(found.reason, f"{_ADVICE[found.fault]}; {_WITHOUT}")


def check_locks(settings: Settings) -> Finding:
    """Report a rendition directory whose locks fail, or hold on this machine only."""
    root = str(settings.rendition_directory)
    # With Redis, the locks are used only while it fails.
    redis = bool(settings.cluster.redis_url)
    severity = warn if redis else fail
    use = "with Redis they are used only while it fails" if redis else "each server renders"
    advice = (
        f"{use}; use a file system with locks of byte ranges (a local one, NFS 4), or set"
        " cluster.redis_url"
    )
    try:
        exclusive = probe_locks(root)
    except OSError as error:
        return severity(f"{root}/locks: {error.strerror}", advice)
    if not exclusive:
        return severity(f"{root}: two open files can lock the same byte", advice)
    if kind := local_lock_mount(root):
        # Processes of one server need no more.
        return warn(
            f"{root} is on {kind}, whose locks hold on this machine only",
            f"mount it without nolock and local_lock; {use} on other machines",
            when=settings.cluster.render_once is True,
        )
    return ok("a locked byte is refused to others")
