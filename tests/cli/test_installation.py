"""``smartserve check-config``, ``settings``, ``db upgrade`` and ``openapi``."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.support.commands import KEY
from tests.support.mariadb import MariaDB


def test_check_config_prints_every_fault(tmp_path: Path, invoke: Invoke) -> None:
    config = tmp_path / "bad.toml"
    config.write_text("[server]\nport = 99999\ncolour = 'red'\n[workers]\ncount = -1\n")
    done = invoke("check-config", "--config", config)
    assert done.code == 2
    for fault in ("server.port", "99999", "server.colour", "workers.count"):
        assert fault in done.stderr


def test_check_config_names_faults_of_variables(invoke: Invoke) -> None:
    done = invoke("check-config", SMARTSERVE_ENCODERS__ORDER="avif", SMARTSERVE_SERVER__PROT="9")
    assert done.code == 2
    assert "encoders.order" in done.stderr
    assert "server.prot" in done.stderr


def test_check_config_names_faults_of_this_machine_without_passwords(invoke: Invoke) -> None:
    done = invoke(
        "check-config",
        SMARTSERVE_DATABASE__URL="postgres://user:secret@host/x",
        SMARTSERVE_STORAGE__ROOT="/nowhere",
    )
    assert done.code == 2
    assert "database.url" in done.stderr
    assert "storage.root: /nowhere" in done.stderr
    assert "secret" not in done.stderr


def test_check_config_names_a_public_address_without_a_key(invoke: Invoke) -> None:
    done = invoke("check-config", SMARTSERVE_SERVER__HOST="::")
    assert (done.code, "admin.key" in done.stderr) == (2, True)


def test_check_config_accepts_lists_with_commas_and_prints_the_versions(invoke: Invoke) -> None:
    done = invoke("check-config", SMARTSERVE_ENCODERS__ORDER="webp, avif,jpeg")
    first, libvips, packages = done.stdout.splitlines()
    assert (done.code, first.startswith("ok")) == (0, True)
    assert re.match(r"libvips 8\.\d+\.\d+; opens jpeg, png, webp, avif, (heic, )?gif", libvips)
    for name in ("pyvips", "pyvips-binary"):
        assert re.search(rf"\b{name} \d+\.\d+", packages)


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({"SMARTSERVE_ADMIN__KEY": KEY}, 0),
        ({"SMARTSERVE_ADMIN__KEY_FILE": "{file}"}, 0),
        ({"SMARTSERVE_ADMIN__KEY": KEY, "SMARTSERVE_SERVER__PORT": "x"}, 2),
        ({"SMARTSERVE_ADMIN__KEY": KEY[:15]}, 2),
        ({"SMARTSERVE_ADMIN__KEY": f"{KEY} {KEY}"}, 2),
        ({"SMARTSERVE_ADMIN__KEY_FILE": KEY}, 2),
        ({"SMARTSERVE_ADMIN": KEY}, 2),
        ({"SMARTSERVE_ADMIN_KEY": KEY}, 2),
    ],
)
def test_check_config_never_prints_the_key(
    environment: dict[str, str], code: int, tmp_path: Path, invoke: Invoke
) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    given = {name: value.format(file=file) for name, value in environment.items()}
    done = invoke("check-config", **given)
    assert done.code == code
    assert KEY[:15] not in done.stdout + done.stderr


def test_only_the_tables_that_are_named_are_printed(invoke: Invoke) -> None:
    done = invoke("settings", "tracing")
    assert done.code == 0
    assert "`tracing.enabled`" in done.stdout
    assert "`server.port`" not in done.stdout


def test_an_unknown_table_is_a_usage_error(invoke: Invoke) -> None:
    done = invoke("settings", "tracng")
    assert (done.code, "there is no table tracng" in done.stderr) == (2, True)


def test_a_settings_file_can_be_printed(invoke: Invoke) -> None:
    done = invoke("settings", "log", "--toml")
    assert done.code == 0
    assert "[log]\n" in done.stdout
    assert 'level = "info"' in done.stdout


def test_the_former_option_for_descriptions_is_accepted(invoke: Invoke) -> None:
    assert invoke("settings", "log", "--notes", "smartserve.toml").code == 0


def test_db_upgrade_changes_the_database_once(data: Path, invoke: Invoke) -> None:
    assert invoke("db", "upgrade", "--data-dir", data).stdout == "upgraded\n"
    assert invoke("db", "upgrade", "--data-dir", data).stdout == "up to date\n"


def test_db_upgrade_creates_missing_indexes_only_if_it_is_told_to(
    data: Path, invoke: Invoke
) -> None:
    invoke("db", "upgrade", "--data-dir", data)
    with closing(sqlite3.connect(data / "smartserve.db")) as connection:
        connection.execute("DROP INDEX ix_media_files_user_id")
    statement = "CREATE INDEX ix_media_files_user_id ON media_files (user_id)"
    assert "1 indexes are missing" in invoke("db", "upgrade", "--data-dir", data).stdout
    assert statement in invoke("db", "upgrade", "--indexes", "--data-dir", data).stdout
    assert invoke("db", "upgrade", "--indexes", "--data-dir", data).stdout == "up to date\n"


_COMMANDS = [("check-config", 2), ("db upgrade", 1), ("status", 1), ("doctor", 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "code"), _COMMANDS)
@pytest.mark.parametrize(
    ("setting", "user", "advice"),
    [
        ("DATABASE", "nobody:wrong", "User or password is wrong"),
        ("MAIN", "nobody:wrong", "User or password is wrong"),
        ("DATABASE", "root", "CREATE DATABASE"),
    ],
)
def test_each_command_names_why_the_database_refuses(
    command: str,
    code: int,
    setting: str,
    user: str,
    advice: str,
    mariadb: MariaDB,
    data: Path,
    invoke: Invoke,
) -> None:
    url = f"mysql+aiomysql://{user}@127.0.0.1:{mariadb.port}/absent"
    environment = {f"SMARTSERVE_{setting}__URL": url, "SMARTSERVE_SERVER__PUBLIC_URL": ""}
    if setting == "MAIN":
        assert invoke("db", "upgrade", "--data-dir", data).code == 0
    done = invoke(*command.split(), "--data-dir", data, **environment)
    output = " ".join((done.stdout + done.stderr).split())
    assert (done.code, advice in output) == (code, True), output
    assert f"{setting.lower()}.url" in output
    assert "nobody:wrong" not in output
    assert "ok:" not in done.stdout


@pytest.mark.parametrize(("command", "code"), _COMMANDS)
def test_each_command_names_an_unknown_host(
    command: str, code: int, data: Path, invoke: Invoke
) -> None:
    url = "mysql+aiomysql://root:secret@db.invalid/media"
    done = invoke(*command.split(), "--data-dir", data, SMARTSERVE_DATABASE__URL=url)
    output = " ".join((done.stdout + done.stderr).split())
    assert (done.code, "The host in database.url cannot be resolved" in output) == (code, True)
    assert "secret" not in output


def test_check_config_names_a_schema_that_is_not_upgraded_at_start(
    data: Path, invoke: Invoke
) -> None:
    data.mkdir()
    (data / "smartserve.db").touch()
    assert invoke("check-config", "--data-dir", data).code == 0
    done = invoke("check-config", "--data-dir", data, SMARTSERVE_DATABASE__UPGRADE_ON_START="false")
    assert (done.code, "run `smartserve db upgrade`" in done.stderr) == (2, True)


def test_check_config_creates_no_database(data: Path, invoke: Invoke) -> None:
    assert invoke("check-config", "--data-dir", data).code == 0
    assert not data.exists()


def test_openapi_prints_the_description(invoke: Invoke) -> None:
    described = json.loads(invoke("openapi").stdout)
    assert "/serve/{name}" in described["paths"]
