"""The table of all checks, area by area, in the order in which they are run and reported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from proxy.doctor import (
    database,
    image,
    originals,
    renditions,
    reverse_proxy,
    server,
    settings,
    uploads,
    workers,
)
from proxy.doctor.check import Check, CheckResult, run_checks
from proxy.doctor.installation import Installation, whole

S = TypeVar("S")


class Area(Generic[S]):
    """Checks of a subject, which ``inspect`` returns."""

    def __init__(self, inspect: Callable[[Installation], Awaitable[S]], *checks: Check[S]) -> None:
        """Keep the checks in the order in which they run."""
        self.inspect = inspect
        self.checks = checks


IMAGE = Area(
    image.inspect,
    Check("image row", image.check_row),
    Check("image original", image.check_original, "Originals cannot be opened"),
    Check("image decode", image.check_decode),
)
"""Run only if the operator names an image."""
AREAS: tuple[Area[Any], ...] = (
    Area(
        whole,
        Check("settings", settings.check_settings),
        Check("key files", settings.check_key_files, "Somebody guesses keys"),
        Check("clock", settings.check_clock),
    ),
    Area(
        whole,
        Check("database", database.check_connection, "The database is away"),
        Check("database schema", database.check_schema),
        Check("database permissions", database.check_permissions, "The database is away"),
        Check("database clock", database.check_clock),
    ),
    Area(
        originals.inspect,
        Check("originals", originals.check_root, "Originals cannot be opened"),
        Check("newest originals", originals.check_newest, "Originals cannot be opened"),
    ),
    Area(
        whole,
        Check("renditions", renditions.check_write, "The rendition disk fails"),
        Check("renditions disk space", renditions.check_space, "The rendition disk fails"),
    ),
    Area(
        workers.inspect,
        Check("worker", workers.check_render, "Workers are missing"),
        Check("worker sandbox", workers.check_sandbox, "The sandbox has a gap"),
        Check("worker formats", workers.check_formats),
    ),
    Area(
        whole,
        Check("main API", uploads.check_main_api, "The main API cannot be asked"),
        Check("upload queue", uploads.check_queue, "Uploads are stuck"),
    ),
    IMAGE,
    Area(
        whole,
        Check("server", server.check_health, "The server is not ready"),
        Check("server readiness", server.check_readiness, "The server is not ready"),
        Check("server version", server.check_version),
        Check("served formats", server.check_formats, "Originals are stood in for"),
    ),
    Area(
        reverse_proxy.inspect,
        Check("proxy", reverse_proxy.check_reach),
        Check("proxy formats", reverse_proxy.check_formats),
        Check("proxy Vary", reverse_proxy.check_vary),
        Check("proxy ETag", reverse_proxy.check_etag),
        Check("proxy lifetime", reverse_proxy.check_lifetime),
        Check("proxy Range", reverse_proxy.check_range),
        Check("proxy closed", reverse_proxy.check_closed, "Somebody guesses keys"),
        Check("proxy forwarded", reverse_proxy.check_forwarded, "Somebody guesses keys"),
    ),
)


async def examine(installation: Installation) -> AsyncIterator[tuple[CheckResult, ...]]:
    """Yield the results of each area as soon as it has been checked.

    Areas run one after the other, so that none is slow because of another.
    """
    for area in AREAS:
        # An image that is displayed needs no explanation.
        if area is not IMAGE or installation.media_id is not None:
            yield await run_checks(area.inspect(installation), area.checks)
