"""Commands on an installation: its settings, its database, its description."""

from __future__ import annotations

import json
import sys

from proxy.app.services import ask_worker
from proxy.app.startup_checks import check_worker, installation_faults
from proxy.app.storage import schemas
from proxy.cli.base import (
    ConfigOption,
    DataDirOption,
    app,
    database_app,
    read_settings,
    run,
)
from proxy.domain.errors import ConfigurationError
from proxy.settings import Settings
from proxy.storage.database.schema import upgrade
from proxy.web.openapi.document import describe


@app.command("check-config")
def check_config(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Check the settings, and what they name on this machine; all faults are told at once.

    Then the versions of what decodes and encodes, as a worker process finds them.
    """
    settings = read_settings(config, data_dir)
    if faults := installation_faults(settings):
        raise ConfigurationError(faults)
    hello = run(ask_worker(settings))
    check_worker(hello)
    print(f"ok: {config or 'defaults'}; data in {settings.data_path}")
    print(f"libvips {hello.libvips}; opens {', '.join(hello.source_types)}")
    print(", ".join(f"{name} {version}" for name, version in hello.codecs.items()))


@database_app.command("upgrade")
def db_upgrade(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Bring the database's schema up to date; what is there stays as it is."""
    settings = read_settings(config, data_dir)
    settings.data_path.mkdir(parents=True, exist_ok=True)
    changed = run(_upgrade(settings))
    print("upgraded" if changed else "up to date")


async def _upgrade(settings: Settings) -> bool:
    """Whether any of the schemas had to be changed."""
    done = [
        await upgrade(url, settings.database, schema=schema) for url, schema in schemas(settings)
    ]
    return any(done)


@app.command()
def openapi(config: ConfigOption = None) -> None:
    """Print the OpenAPI description of the HTTP surface."""
    json.dump(describe(read_settings(config)), sys.stdout, indent=2)
    print()
