"""Shared functions of the commands: settings, errors, and concurrent processing."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from structlog.testing import capture_logs
from typer.testing import CliRunner

from proxy.cli import OutputFailed, base
from proxy.cli.base import (
    address_recorded,
    command,
    fail,
    is_unicode,
    print_error,
    print_line,
    print_result,
    printable,
    process_each,
    progress_bar,
    read_settings,
    with_running_server,
)
from proxy.domain.errors import CapacityError, ConfigurationError, DatabaseUnavailable, Overloaded
from proxy.settings import Settings
from tests.support.server import make_settings

if TYPE_CHECKING:
    from typing_extensions import Buffer


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the logging of the test process as it is."""
    monkeypatch.setattr("proxy.cli.base.configure_logs", lambda _section: None)


def test_options_override_settings_unless_they_are_missing(tmp_path: Path) -> None:
    settings = read_settings(None, tmp_path, host="127.0.0.2", port=None)
    assert (settings.server.host, settings.server.port) == ("127.0.0.2", 8080)
    assert settings.data_path == tmp_path


def test_an_old_name_of_a_setting_is_logged_with_the_new_one(tmp_path: Path) -> None:
    config = tmp_path / "smartserve.toml"
    config.write_text("[ingest]\nat_once = 2\n")
    with capture_logs() as logged:
        assert read_settings(config).ingest.concurrency == 2
    (entry,) = [one for one in logged if one["event"] == "setting_renamed"]
    assert (entry["log_level"], entry["setting"]) == ("warning", "ingest.at_once")
    assert entry["new_name"] == "ingest.concurrency"


@pytest.mark.parametrize(("failures", "code"), [("0", 0), ("3", 1)])
def test_a_command_receives_its_settings_and_exits_with_1_after_failures(
    failures: str, code: int, tmp_path: Path
) -> None:
    group = typer.Typer()

    @command("count", group=group)
    async def count(settings: Settings, failures: int) -> int:
        typer.echo(settings.data_path)
        return failures

    done = CliRunner().invoke(group, [failures, "--data-dir", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (code, f"{tmp_path}\n")


HANGING = """
import asyncio, os, signal, sys, time
from functools import partial
from proxy.cli import OutputFailed, base
from proxy.runtime.thread_pool import in_daemon_thread
from proxy.settings import LogSettings
# A shell starts what runs in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
base.CLOSE_S = 0.2
base.configure_logs(LogSettings())

async def in_executor():
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
    return 3

async def in_daemon():
    task = asyncio.create_task(in_daemon_thread(partial(time.sleep, 600)))
    await asyncio.sleep(0)
    return 3

async def interrupted():
    asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
    await in_daemon_thread(partial(time.sleep, 600))

print(base.run(globals()[sys.argv[1]]()))
"""


@pytest.mark.parametrize(
    ("function", "code", "output"),
    [("in_executor", 0, "3\n"), ("in_daemon", 1, ""), ("interrupted", 130, "")],
)
def test_a_thread_that_hangs_does_not_keep_a_command_from_ending(
    function: str, code: int, output: str
) -> None:
    command = [sys.executable, "-c", HANGING, function]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (code, output)
    # With the place where each thread hangs.
    assert ("exit_forced" in done.stderr) == (code > 0)
    assert ("in-thread-" in done.stderr) == (code > 0)


def test_an_error_of_the_settings_exits_with_2_and_one_line_for_each_fault(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        fail(ConfigurationError(["a: wrong", "b: [red]wrong[/red]"]))
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: a: wrong\nerror: b: [red]wrong[/red]\n"


def test_every_other_error_exits_with_1() -> None:
    with pytest.raises(SystemExit) as end:
        fail(DatabaseUnavailable("away"))
    assert end.value.code == 1


def test_markup_in_an_error_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("skipped", "odd[/b] [1].txt")
    assert capsys.readouterr().err == "skipped odd[/b] [1].txt\n"


async def test_at_most_so_many_items_are_processed_at_a_time() -> None:
    active = most = 0
    processed: list[int] = []

    async def process(item: int) -> bool:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0)
        active -= 1
        processed.append(item)
        return True

    with progress_bar("testing", 20) as progress:
        await process_each(range(20), process, progress=progress, concurrency=3)
        assert progress.finished
    assert most <= 3
    assert sorted(processed) == list(range(20))


@pytest.mark.parametrize("error", [DatabaseUnavailable("slow"), Overloaded("no CPU time")])
async def test_an_item_is_repeated_after_a_temporary_error(
    error: CapacityError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(base, "_RETRY_DELAYS_S", (0, 0))
    attempts: list[int] = []

    async def process(item: int) -> bool:
        attempts.append(item)
        if item == 1 and attempts.count(1) < 3:
            raise error
        return True

    with progress_bar("testing", 3) as progress:
        assert await process_each(range(3), process, progress=progress, concurrency=1) == 0
    assert attempts == [0, 1, 1, 1, 2]
    assert capsys.readouterr().err.count(f"{error.detail} Retrying in 0 s.") == 2


async def test_an_error_that_stays_cancels_the_other_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_RETRY_DELAYS_S", (0, 0))
    processed: list[int] = []

    async def process(item: int) -> bool:
        if item == 2:
            raise DatabaseUnavailable("away")
        processed.append(item)
        return True

    with progress_bar("testing", 20) as progress, pytest.raises(DatabaseUnavailable):
        await process_each(range(20), process, progress=progress, concurrency=1)
    assert processed == [0, 1]


async def test_failures_are_counted() -> None:
    async def process(item: int) -> bool:
        return item % 2 == 0

    with progress_bar("testing", 5) as progress:
        assert await process_each(range(5), process, progress=progress, concurrency=2) == 2


def test_other_commands_use_the_address_of_the_running_server(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, server={"host": "0.0.0.0", "port": 0})
    others = make_settings(tmp_path)
    assert with_running_server(others) == others
    with address_recorded(settings, 4711):
        assert with_running_server(others).base_url() == "http://127.0.0.1:4711"
        # A second server with the same data directory leaves the record of the first.
        with address_recorded(settings, 4712):
            assert with_running_server(others).server.port == 4711
        public = make_settings(tmp_path, server={"public_url": "https://img.example.org"})
        assert with_running_server(public).base_url() == "https://img.example.org"
    # The server has ended; its record is still there.
    assert with_running_server(others) == others


@pytest.mark.parametrize("text", ["", "{", "[]", '{"port": "x"}', '{"port": 99999}', '{"x": 1}'])
def test_an_unreadable_record_of_the_server_is_ignored(tmp_path: Path, text: str) -> None:
    settings = make_settings(tmp_path)
    with address_recorded(settings, 4711):
        (tmp_path / "server.json").write_text(text)
        assert with_running_server(settings) == settings


def test_a_read_only_data_directory_does_not_prevent_a_start(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "missing")
    with address_recorded(settings, 4711):
        assert with_running_server(settings) == settings


async def test_failures_of_concurrent_items_are_all_counted() -> None:
    last = asyncio.Event()

    async def fail_together(item: int) -> bool:
        if item == 3:
            last.set()
        await last.wait()
        return False

    with progress_bar("", 4) as progress:
        assert await process_each(range(4), fail_together, progress=progress, concurrency=4) == 4


def test_names_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\u202egnp.\n\udcff [red]x[/red] :smile: \\"
    print_error("skipped", name)
    assert capsys.readouterr().err.endswith(
        "skipped a\\x1b[2J\\u202egnp.\\n\\udcff [red]x[/red] :smile: \\\n"
    )
    assert printable("Schöne Grüße.png") == "Schöne Grüße.png"


class Full(io.StringIO):
    """Standard output that cannot be written."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str, /) -> int:
        raise self.error


def test_an_error_of_standard_output_is_none_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Full(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OutputFailed, match=r"^No space left on device$"):
        print_result("text")
    monkeypatch.setattr(sys, "stdout", Full(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    with pytest.raises(BrokenPipeError):
        print_result("text")


def test_text_is_unicode_unless_it_has_bytes_that_are_not_utf_8() -> None:
    assert is_unicode("Größe 日本 \U0001f600 \0")
    assert not is_unicode(os.fsdecode(b"a\xff"))


def test_a_line_is_written_at_once_even_if_output_is_unbuffered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes: list[bytes] = []

    class Unbuffered(io.BytesIO):
        def write(self, data: Buffer) -> int:
            writes.append(bytes(data))
            return len(writes[-1])

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(Unbuffered(), write_through=True))
    print_line("smartserve on http://127.0.0.1:1")
    assert [one for one in writes if one] == [b"smartserve on http://127.0.0.1:1\n"]
