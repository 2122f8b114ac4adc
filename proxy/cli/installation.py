"""``smartserve check-config``, ``db upgrade`` and ``openapi``: settings, database, description."""

from __future__ import annotations

import json
import sys

import uvloop

from proxy.app.rendering import worker_info
from proxy.app.startup_checks import check_worker, installation_faults
from proxy.app.storage import schemas
from proxy.cli.base import ConfigOption, DataDirOption, app, database_app, read_settings
from proxy.domain.errors import ConfigurationError
from proxy.settings import Settings
from proxy.storage.database.schema import upgrade
from proxy.web.openapi.document import describe


@app.command("check-config")
def check_config(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Check the settings, and the files and addresses that they name; print all faults.

    Then starts a worker process and prints the versions of its decoders and encoders.
    """
    settings = read_settings(config, data_dir)
    if faults := installation_faults(settings):
        raise ConfigurationError(faults)
    # Only a worker process may load libvips.
    worker = uvloop.run(worker_info(settings))
    check_worker(worker)
    print(f"ok: {config or 'defaults'}; data in {settings.data_path}")
    print(f"libvips {worker.libvips}; opens {', '.join(worker.source_types)}")
    print(", ".join(f"{name} {version}" for name, version in worker.codecs.items()))


@database_app.command("upgrade")
def db_upgrade(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Create or upgrade the tables of the database; existing rows are kept."""
    settings = read_settings(config, data_dir)
    # SQLite creates its file, but not the directory.
    settings.data_path.mkdir(parents=True, exist_ok=True)
    print("upgraded" if uvloop.run(_upgrade(settings)) else "up to date")


async def _upgrade(settings: Settings) -> bool:
    """Upgrade every schema; return whether one has changed."""
    changed = [
        await upgrade(url, settings.database, schema=schema) for url, schema in schemas(settings)
    ]
    return any(changed)


@app.command()
def openapi(config: ConfigOption = None) -> None:
    """Print the OpenAPI description of the HTTP API."""
    json.dump(describe(read_settings(config)), sys.stdout, indent=2)
    print()
