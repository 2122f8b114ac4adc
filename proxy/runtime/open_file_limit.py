"""Descriptors: how many connections the process's limit of open files leaves room for."""

from __future__ import annotations

import resource

import structlog

_OWN = 512
"""Descriptors for all else: workers and their pipes, the database, files that are read."""
_LEAST_OWN = 48
"""With two workers 30 are open at rest; renders and reads need the others for a moment."""
_OWN_SHARE = 2
"""One part in so many is kept for that where the limit is low."""

log = structlog.get_logger(__name__)


def make_room(connections: int) -> int:
    """Raise the process's soft limit to its hard one; how many connections fit below it.

    That is ``connections``, or fewer, with a warning; 0 asks for as many as fit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = fitting(connections, hard)
    if allowed < connections:
        log.warning("fewer_connections", wanted=connections, allowed=allowed, open_files=hard)
    return allowed


def fitting(connections: int, descriptors: int) -> int:
    """Return how many of ``connections`` fit below ``descriptors``; 0 asks for as many as fit."""
    if descriptors == resource.RLIM_INFINITY:
        return connections
    own = min(_OWN, max(_LEAST_OWN, descriptors // _OWN_SHARE))
    room = max(1, descriptors - own)
    return min(connections, room) if connections else room
