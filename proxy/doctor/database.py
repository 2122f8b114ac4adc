"""The media database: reached, at the version that the code wants, with the rights it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.doctor import CheckBlocked, Diagnosis, failed, skipped, warned, well
from proxy.doctor.figures import as_time
from proxy.domain.errors import ConfigurationError, DatabaseUnavailable
from proxy.settings import Settings
from proxy.storage.database.diagnostics import (
    DatabaseHealth,
    denied,
    driver_code,
    driver_text,
    sqlite_file,
    vitals,
)
from proxy.storage.database.schema import DatabaseSchema, standing

_SLOW_S = 0.05
_AHEAD_S, _FAR_AHEAD_S = 5.0, 60.0
_MAIN_SIDE = 4
"""Connections of the main side, at most."""
_BESIDE_UPLOADS = 2

_AWAY = "main.url cannot be asked"
_UP = "is it up (systemctl status mariadb), and are host and port in database.url right?"
_FILE = (
    "an SQLite file has to be the server's own, and so its folder (chown); what is locked for long"
    " is being written by another program"
)
_ADVICE = {
    1040: "max_connections is used up: SHOW PROCESSLIST tells by whom; raise it, or lower"
    " database.pool_size of each server",
    1044: "the account may not use this database: GRANT it, or name another in database.url",
    1045: "user or password is wrong: see SMARTSERVE_DATABASE__URL",
    1049: "there is no such database: CREATE DATABASE it, or name another in database.url",
    2003: _UP,
    2013: "it hung up: its log, and max_allowed_packet and timeouts, say why",
}


@dataclass(frozen=True, slots=True)
class SchemaFacts:
    """How one schema stands."""

    name: str
    found: str | None
    wanted: str
    fault: str
    """What is wrong with it; empty where nothing is."""


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What was seen of the database."""

    vitals: DatabaseHealth
    schemas: tuple[SchemaFacts, ...]
    denied: tuple[str, ...]
    pool_size: int
    """Connections that a server opens at most, to all that it does."""


async def look(
    settings: Settings, schemas: Sequence[tuple[str, DatabaseSchema]], *, ingest: bool
) -> DatabaseFacts:
    """Ask the database; ``ingest``: whether a worker of uploads writes to it too."""
    url, section = settings.database_url, settings.database
    file = sqlite_file(url)
    _require_file(file)
    try:
        told = await vitals(url, section)
        versions = [await _schema(settings, where, schema) for where, schema in schemas]
        refused = await denied(url, section, ingest=ingest)
    except DatabaseUnavailable as error:
        advice = _ADVICE.get(driver_code(error), _UP if file is None else _FILE)
        raise CheckBlocked(failed(f"cannot be asked: {driver_text(error)}", advice)) from error
    own = section.pool_size + (_MAIN_SIDE if settings.main.enabled else 0)
    uploads = settings.ingest.at_once + _BESIDE_UPLOADS
    return DatabaseFacts(told, tuple(versions), tuple(refused), own + (uploads if ingest else 0))


def _require_file(file: Path | None) -> None:
    """To open an SQLite file that is not there would make one."""
    if file is None or file.is_file():
        return
    advice = (
        "is data_dir (or database.url) the one that the server has? The server makes the file"
        " at its first start; a path there is relative to where it is started"
    )
    raise CheckBlocked(failed(f"there is no file {file}", advice))


async def _schema(settings: Settings, url: str, schema: DatabaseSchema) -> SchemaFacts:
    name, wanted = schema.version_table, schema.revisions[-1]
    try:
        found, pending = await standing(url, settings.database, schema=schema)
    except ConfigurationError as error:
        return SchemaFacts(name, None, wanted, "; ".join(error.faults))
    except DatabaseUnavailable as error:
        if url == settings.database_url:
            raise
        return SchemaFacts(name, None, wanted, f"{_AWAY}: {driver_text(error)}")
    told = f"is at {found or 'no version'}, and {wanted} is wanted" if pending else ""
    return SchemaFacts(name, found, wanted, told)


def judge_reach(seen: DatabaseFacts) -> Diagnosis:
    """Whether it answers, and how quickly."""
    vitals_ = seen.vitals
    told = f"{vitals_.kind} {vitals_.version} answers in {as_time(vitals_.latency_s)}"
    if vitals_.latency_s <= _SLOW_S:
        return well(told)
    advice = "each unknown picture waits for it: is it near, and is the machine busy?"
    return warned(told, advice)


def judge_schema(seen: DatabaseFacts) -> Diagnosis:
    """Whether its tables are those that the code wants."""
    faults = [one for one in seen.schemas if one.fault]
    if not faults:
        told = ", ".join(f"{one.name} {one.found or 'of another program'}" for one in seen.schemas)
        return well(told)
    told = "; ".join(f"{one.name}: {one.fault}" for one in faults)
    if any(one.fault.startswith(_AWAY) for one in faults):
        up = _UP.replace("database.url", "main.url")
        advice = f"{up} Uploads are refused meanwhile, and pictures are served"
    elif any("newer" in one.fault for one in faults):
        advice = "install the version of smartserve that upgraded it; there is no way down"
    else:
        advice = "run 'smartserve db upgrade' with an account that may make tables"
    return failed(told, advice)


def judge_rights(seen: DatabaseFacts) -> Diagnosis:
    """Whether the account may do what is needed."""
    if not seen.denied:
        return well("reads media_files and media_fallbacks, reads and writes media_facts")
    advice = (
        "GRANT SELECT on media_files and media_fallbacks, and SELECT, INSERT, DELETE on"
        " media_facts; who runs uploads needs INSERT and UPDATE on the tables named here too."
        " An SQLite file has to be the server's own, and so its folder"
    )
    return failed("; ".join(seen.denied), advice)


def judge_clock(seen: DatabaseFacts) -> Diagnosis:
    """Whether its clock agrees with ours."""
    ahead_s = seen.vitals.ahead_s
    told = f"its clock is {as_time(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'} ours"
    if abs(ahead_s) <= _AHEAD_S:
        return well(told)
    advice = (
        "set both machines by NTP (chronyc tracking says which is off): rows that change are"
        " dated by it, and Last-Modified with them"
    )
    return (failed if abs(ahead_s) > _FAR_AHEAD_S else warned)(told, advice)


def judge_connections(seen: DatabaseFacts) -> Diagnosis:
    """Whether it has room for the pools of a server."""
    vitals_ = seen.vitals
    if vitals_.max_connections is None:
        return skipped("SQLite has no limit of connections")
    told = (
        f"{vitals_.connections} of {vitals_.max_connections} are open, a server takes up to"
        f" {seen.pool_size}"
    )
    advice = (
        "raise max_connections of the database above what all servers together take, or lower"
        " database.pool_size"
    )
    if seen.pool_size >= vitals_.max_connections:
        return failed(told, advice)
    if vitals_.max_connections - vitals_.connections < seen.pool_size:
        return warned(told, advice)
    return well(told)
