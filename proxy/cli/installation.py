"""``smartserve check-config``, ``settings``, ``db upgrade`` and ``openapi``."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from proxy.app.rendering import worker_info
from proxy.app.startup_checks import check_worker, installation_faults
from proxy.app.storage import schemas
from proxy.cli import app
from proxy.cli.base import (
    ConfigOption,
    DataDirOption,
    command,
    database_app,
    printable,
    read_settings,
    run,
)
from proxy.domain.errors import ConfigurationError, DatabaseUnavailable
from proxy.settings import Settings
from proxy.settings.reference import markdown, settings_file, tables
from proxy.storage.database.engine import sqlite_file
from proxy.storage.database.schema import (
    create_indexes,
    inspect_version,
    missing_indexes,
    upgrade,
)
from proxy.web.routes import describe


@app.command("check-config")
def check_config(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Check the settings, and the files and addresses that they name; print all faults.

    Then connects to the databases, starts a worker process and prints the versions of its decoders
    and encoders.
    """
    settings = read_settings(config, data_dir)
    if faults := installation_faults(settings):
        raise ConfigurationError(faults)
    run(_check_databases(settings))
    # Only a worker process may load libvips.
    worker = run(worker_info(settings))
    check_worker(worker)
    print(printable(f"ok: {config or 'defaults'}; data in {settings.data_path}"))
    print(f"libvips {worker.libvips}; opens {', '.join(worker.source_types)}")
    print(", ".join(f"{name} {version}" for name, version in worker.codecs.items()))


async def _check_databases(settings: Settings) -> None:
    """Connect to each database and read its schema version; nothing is created or changed.

    Raises:
        ConfigurationError: the server would not start, or could not use a database, as it is now.
    """
    faults = []
    for url, schema in schemas(settings):
        file = sqlite_file(url)
        # SQLite would create the file, which the server does at its first start.
        if file is not None and not file.exists():
            continue
        try:
            _, outdated = await inspect_version(url, settings.database, schema=schema)
        except DatabaseUnavailable as error:
            faults.append(error.reason)
        else:
            if outdated and not settings.database.upgrade_on_start:
                faults.append(f"{schema.setting}: the schema is old; run `smartserve db upgrade`")
    if faults:
        # Both schemas may be in one database.
        raise ConfigurationError(list(dict.fromkeys(faults)))


@app.command()
def settings(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="TABLE", help="Print only these tables and those below: encoders."),
    ] = None,
    toml: Annotated[
        bool, typer.Option("--toml", help="Print a settings file instead of Markdown tables.")
    ] = False,
    notes: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print every setting with its default, allowed values and description."""
    # Descriptions came from a file before; the option works for one more release.
    del notes
    listed = tables()
    if unknown := [name for name in names or [] if not any(one.within(name) for one in listed)]:
        raise typer.BadParameter(f"there is no table {unknown[0]}", param_hint="TABLE")
    wanted = [one for one in listed if not names or any(map(one.within, names))]
    print((settings_file if toml else markdown)(wanted), end="")


@command("upgrade", group=database_app)
def db_upgrade(
    settings: Settings,
    indexes: Annotated[
        bool,
        typer.Option(
            "--indexes",
            help="Also add missing indexes to tables of other programs; print each statement.",
        ),
    ] = False,
) -> None:
    """Create or upgrade the tables of the database; existing rows are kept."""
    # SQLite creates its file, but not the directory.
    settings.data_path.mkdir(parents=True, exist_ok=True)
    print("upgraded" if run(_upgrade(settings)) else "up to date")
    run(_indexes(settings, create=indexes))


async def _indexes(settings: Settings, *, create: bool) -> None:
    """Create the missing indexes, or print how many there are and what to do."""
    missing = 0
    for url, schema in schemas(settings):
        if create:
            # Flushed: a statement on a large table takes minutes.
            announce = partial(print, flush=True)
            await create_indexes(url, settings.database, schema=schema, announce=announce)
        else:
            missing += len(await missing_indexes(url, settings.database, schema=schema))
    if missing:
        print(f"{missing} indexes are missing: run `smartserve db upgrade --indexes`")


async def _upgrade(settings: Settings) -> bool:
    """Upgrade every schema; return whether one has changed."""
    # A list: any() of a generator would stop at the first schema that changes.
    changed = [
        await upgrade(url, settings.database, schema=schema) for url, schema in schemas(settings)
    ]
    return any(changed)


@app.command()
def openapi(config: ConfigOption = None) -> None:
    """Print the OpenAPI description of the HTTP API."""
    json.dump(describe(read_settings(config)), sys.stdout, indent=2)
    print()
