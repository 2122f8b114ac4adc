"""Checks of the media database: connection, schema, permissions and clock."""

from __future__ import annotations

from proxy.doctor.check import Finding, Findings, area, as_time, counted, fail, ok, warn
from proxy.doctor.installation import Installation
from proxy.domain.errors import DatabaseUnavailable
from proxy.storage.database.diagnostics import (
    clock_offset_s,
    denied_operations,
    describe_server,
)
from proxy.storage.database.driver_errors import driver_text
from proxy.storage.database.engine import sqlite_file
from proxy.storage.database.schema import inspect_version, missing_indexes

_SLOW_S = 0.05
_MAX_OFFSET_S, _FAR_OFFSET_S = 5.0, 60.0
_MISSING_FILE = (
    "is data_dir (or database.url) the one that the server uses? The server creates the file at its"
    " first start; a relative path is relative to the folder in which it is started"
)
_GRANT = (
    "GRANT SELECT on media_files and media_fallbacks, SELECT, INSERT, DELETE on media_facts,"
    " media_faces and purges, SELECT, INSERT, UPDATE on purge_epochs, SELECT, INSERT, UPDATE,"
    " DELETE on media_choices and media_alt_texts, SELECT, UPDATE, DELETE on media_metadata, and"
    " SELECT, DELETE on media_tags; processing uploads also needs INSERT and UPDATE on the tables"
    " named here. An SQLite file and its folder must belong to the server's user"
)


@area("database", "database schema", "database permissions", "database clock")
async def check_database(installation: Installation) -> Findings:
    """Connect, and check the schema, the permissions of the account and the clock."""
    # The URL has a password: only its file or the driver's message is reported.
    url, section = installation.settings.database_url, installation.settings.database
    file = sqlite_file(url)
    # SQLite would create the file.
    if file is not None and not file.is_file():
        yield fail(f"there is no file {file}", _MISSING_FILE)
        return
    try:
        version, latency_s = await describe_server(url, section)
    except DatabaseUnavailable as error:
        yield fail(f"cannot connect: {driver_text(error)}", error.advice)
        return
    text = f"{version} answers in {as_time(latency_s)}"
    # A miss waits for one query before its render.
    advice = "each image that is not cached waits for it: is it near, is its machine busy?"
    yield warn(text, advice, when=latency_s > _SLOW_S)
    yield await check_schema(installation)
    # Without a worker the account needs no right to write rows.
    ingest = installation.queue is not None
    denied = await denied_operations(url, section, ingest=ingest)
    allowed = "may read what is served, and read and write media_facts and purges"
    yield fail("; ".join(denied) or allowed, _GRANT, when=bool(denied))
    yield judge_offset(await clock_offset_s(url, section))


async def check_schema(installation: Installation) -> Finding:
    """Report tables that are older or newer than this version of the program requires."""
    settings = installation.settings
    versions: list[str] = []
    missing: list[str] = []
    for url, schema in installation.schemas:
        name = schema.version_table
        try:
            # Raises ConfigurationError if a newer version has upgraded the schema.
            found, pending = await inspect_version(url, settings.database, schema=schema)
        except DatabaseUnavailable as error:
            # The check before has just connected: the database has gone meanwhile.
            if url == settings.database_url:
                raise
            advice = f"{error.advice} Images are served meanwhile, uploads are refused."
            return fail(f"{name}: cannot connect to main.url: {driver_text(error)}", advice)
        if pending:
            advice = "run 'smartserve db upgrade' with an account that may create tables"
            required = f"{schema.revisions[-1]} is required"
            return fail(f"{name} is at {found or 'no version'}, {required}", advice)
        # A schema without a version table belongs to another program, and is used as it is.
        versions.append(f"{name} {found or 'of another program'}")
        missing += await missing_indexes(url, settings.database, schema=schema)
    text = ", ".join(versions)
    advice = f"run 'smartserve db upgrade --indexes', which runs: {'; '.join(missing)}"
    seen = f"{text}; without {counted(len(missing), 'index')} each upload scans a whole table"
    return warn(seen, advice) if missing else ok(text)


def judge_offset(offset_s: float) -> Finding:
    """Return the finding for a clock that is ``offset_s`` ahead of this machine's."""
    text = f"{as_time(abs(offset_s))} {'ahead of' if offset_s > 0 else 'behind'} this machine"
    # Last-Modified of changed images comes from the database.
    advice = "synchronise both machines by NTP (chronyc tracking): Last-Modified needs this clock"
    if abs(offset_s) > _FAR_OFFSET_S:
        return fail(text, advice)
    # The offset is accurate to half of the time that the request took.
    return warn(text, advice, when=abs(offset_s) > _MAX_OFFSET_S)
