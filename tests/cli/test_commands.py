"""The command line as a whole: lazy imports, usage errors, help, version."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from proxy.cli import MODULES, SUMMARIES, app, load
from tests.cli.conftest import Invoke
from tests.support.commands import SMARTSERVE, run


def test_each_command_is_imported_from_the_module_that_defines_it() -> None:
    load()
    commands = typer.main.get_command(app)
    assert isinstance(commands, typer.core.TyperGroup)
    found = {name: _module(command) for name, command in commands.commands.items()}
    assert found == MODULES


def _module(command: Any) -> str:
    if isinstance(command, typer.core.TyperGroup):
        (module,) = {_module(one) for one in command.commands.values()}
        return module
    return str(command.callback.__module__).rpartition(".")[2]


def test_a_short_command_does_not_import_the_modules_of_the_server() -> None:
    script = "import sys, proxy.cli; proxy.cli.load('purge'); sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_list_of_commands_shows_the_first_paragraph_of_the_help_of_each() -> None:
    load()
    commands = typer.main.get_command(app)
    assert isinstance(commands, typer.core.TyperGroup)
    first = {
        name: " ".join(str(command.help).partition("\n\n")[0].split())
        for name, command in commands.commands.items()
    }
    assert first == SUMMARIES


@pytest.mark.parametrize("words", [["--help"], [], ["--version"]])
def test_the_list_of_commands_needs_no_module_of_a_command(words: list[str]) -> None:
    # Each of these takes longer to import than typer.
    heavy = "{'rich', 'structlog', 'pydantic', 'uvloop', 'asyncio', 'sqlalchemy', 'aiohttp'}"
    script = (
        "import sys, proxy.cli\n"
        f"sys.argv = ['smartserve', *{words}]\n"
        "try:\n    proxy.cli.main()\n"
        "finally:\n"
        f"    print(sorted({heavy} & set(sys.modules)), 'proxy.cli.base' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[] False", done.stderr


def test_the_list_of_commands_is_not_truncated(invoke: Invoke) -> None:
    listed = " ".join(invoke("--help").stdout.split())
    assert all(f"{name} {summary}" in listed for name, summary in SUMMARIES.items())


def test_a_command_after_two_dashes_is_run(invoke: Invoke) -> None:
    assert "server.port" in invoke("--", "settings", "server").stdout


def test_the_command_runs_as_a_module_and_prints_its_version() -> None:
    assert run("--version").stdout.startswith("smartserve 0.")


@pytest.mark.parametrize(
    "wrong", [["serve", "--nonsense"], ["serve", "--port", "x"], ["import"], ["nonsense"]]
)
def test_a_usage_error_exits_with_2_and_no_traceback(wrong: list[str], invoke: Invoke) -> None:
    done = invoke(*wrong)
    assert done.code == 2
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", sorted(MODULES))
def test_every_command_has_help(command: str, invoke: Invoke) -> None:
    done = invoke(command, "--help")
    assert done.code == 0
    assert "Usage:" in done.stdout


LARGE = str(1 << 63)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["warm", one] for one in (LARGE, "0", "-- -5")),
        *(["purge", one] for one in (LARGE, "0", "-- -5")),
        ["purge", "--user-id", LARGE],
        *(["analyse", one] for one in (LARGE, "0")),
        *(["near-duplicates", one] for one in (LARGE, "0")),
        *(["similar", one] for one in (LARGE, "0")),
        ["import", "a.png", "--user-id", LARGE],
        ["adopt", "folder", "--user-id", LARGE],
        ["metadata", "search", "--user-id", LARGE],
        ["metadata", "extract", "--store", LARGE],
        *(["bulk", one, LARGE] for one in ("work", "status", "pause", "resume", "cancel")),
        ["token", "--user", LARGE],
        ["doctor", LARGE],
        ["sign", LARGE],
    ],
    ids=" ".join,
)
def test_an_id_that_no_row_can_have_is_a_usage_error(
    arguments: list[str], tmp_path: Path, invoke: Invoke
) -> None:
    words = " ".join(arguments).split()
    key = {"SMARTSERVE_ACCESS__KEYS": '{"k1": "' + "ab" * 32 + '"}'}
    done = (
        invoke(words[0], "--data-dir", tmp_path, *words[1:], **key)
        if (words[0] not in ("bulk", "metadata"))
        else invoke(*words, "--data-dir", tmp_path)
    )
    assert done.code == 2, done
    assert "Usage:" in done.stderr
    assert not list(tmp_path.iterdir()), "before the database is opened"


@pytest.mark.parametrize(
    "arguments",
    [["metadata", "search", "--tag"], ["metadata", "search", "--mj-version"], ["sign"],
     ["sign", "5", "--format"], ["sign", "5", "--base-url"]],
    ids=" ".join,
)  # fmt: skip
def test_text_that_is_not_utf_8_is_a_usage_error(arguments: list[str], invoke: Invoke) -> None:
    key = {"SMARTSERVE_ACCESS__KEYS": '{"k1": "' + "ab" * 32 + '"}'}
    done = invoke(*arguments, os.fsdecode(b"a\xff"), **key)
    assert done.code == 2, done
    assert "UTF-8" in done.stderr


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_a_path_that_the_output_cannot_encode_is_printed(encoding: str, tmp_path: Path) -> None:
    name = os.fsdecode("Größe ".encode() + b"\xff")
    arguments = ("check-config", "--data-dir", tmp_path / name)
    done = run(*arguments, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    shown = "Größe" if encoding.startswith("utf") else "Gr\\xf6\\xdfe"
    assert f"{shown} \\udcff" in done.stdout


def test_a_command_without_standard_output_runs_to_its_end(tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *SMARTSERVE, "metadata", "rename", tmp_path],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "rename: 0 renamed, 0 unchanged, 0 skipped"


def test_output_that_cannot_be_written_is_an_error_without_a_traceback(data_dir: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*SMARTSERVE, "purge", "1", "2", "--data-dir", data_dir],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
            env={**os.environ, "SMARTSERVE_LOG__LEVEL": "error"},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: standard output: No space left on device\n"


def test_help_shows_the_default_of_options_that_replace_settings(invoke: Invoke) -> None:
    assert "(server.port)" in invoke("serve", "--help").stdout
    assert "(all images)" in invoke("warm", "--help").stdout
