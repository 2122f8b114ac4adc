"""Derives the maximum number of connections from the process's limit of open files."""

from __future__ import annotations

import resource

import structlog

_RESERVED = 1536
"""Open files for everything else: originals of the jobs that wait (`workers.max_queue`), workers
and their pipes, the database, files that are read."""
_MIN_RESERVED = 48
"""With two workers 30 files are open at rest; renders and reads open more for a moment."""
_RESERVED_SHARE = 2
"""If the limit is low, one part in this many is reserved instead."""

log = structlog.get_logger(__name__)


def raise_limit(connections: int) -> int:
    """Raise the soft limit of open files to the hard limit; return how many connections fit.

    That is ``connections`` or, with a warning in the log, fewer. 0 means as many as fit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = max_connections(connections, hard)
    if allowed < connections:
        log.warning("fewer_connections", wanted=connections, allowed=allowed, open_files=hard)
    return allowed


def max_connections(connections: int, open_files: int) -> int:
    """Return how many of ``connections`` the limit ``open_files`` allows; 0 means all that fit."""
    if open_files == resource.RLIM_INFINITY:
        return connections
    reserved = min(_RESERVED, max(_MIN_RESERVED, open_files // _RESERVED_SHARE))
    available = max(1, open_files - reserved)
    return min(connections, available) if connections else available
