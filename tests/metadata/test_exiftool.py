"""Resident exiftool processes, which are really confined and really killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from proxy.domain.errors import (
    ConfigurationError,
    RenderTimeout,
    SourceQuarantined,
    SourceTooLarge,
)
from proxy.metadata import exiftool
from proxy.metadata.exiftool import (
    ExifToolJob,
    ExifToolProgram,
    ExifToolReply,
    find_program,
    interpreter,
    start_exiftool,
)
from proxy.metadata.tags import parse
from proxy.metadata.temp_folder import TempFolder
from proxy.rendering.pool.pool import WorkerPool
from proxy.runtime.supervised_task import UNCOUNTED
from proxy.settings import WorkerSettings
from tests.metadata.files import MAKE, jpeg, png, require_exiftool, text_chunk
from tests.support.waiting import eventually

LONG_S = 600.0
"""A limit that no test reaches."""


@pytest.fixture(autouse=True)
def _installed() -> None:
    require_exiftool()


def installed() -> ExifToolProgram:
    program = find_program({})
    assert isinstance(program, ExifToolProgram), program
    return program


@asynccontextmanager
async def engines(
    root: Path, program: ExifToolProgram | None = None, **settings: float
) -> AsyncIterator[tuple[WorkerPool, TempFolder]]:
    own = WorkerSettings.model_validate({"count": 1, "deadline_s": LONG_S, **settings})
    with TempFolder(root / "root") as folder:
        start = partial(
            start_exiftool,
            program or installed(),
            folder,
            own,
            python=sys.executable,
            supervisor=UNCOUNTED,
        )
        async with WorkerPool(
            own, source_types=(), max_output_bytes=0, start=start, max_attempts=1
        ) as pool:
            yield pool, folder


async def read(
    pool: WorkerPool, folder: TempFolder, content: bytes, *, validate: bool = False
) -> ExifToolReply:
    with folder.new_file(max_bytes=10**9) as file:
        await file.write(content)
        await file.finish()
        return await pool.run(ExifToolJob.of(file, suffix="jpg", validate=validate), None)


async def test_a_resident_process_reads_one_file_after_the_other(tmp_path: Path) -> None:
    async with engines(tmp_path) as (pool, folder):
        (pid,) = pool.pids
        for content in (jpeg(), png(text_chunk("Comment", "a\n{ready5}\nb")), jpeg()):
            reply = await read(pool, folder, content)
            assert parse(reply.output)
        assert pool.pids == (pid,)
        assert parse(reply.output)["IFD0"]["Make"] == MAKE
        assert 0 < (reply.peak_bytes or 0) < exiftool.MAX_MEMORY_BYTES
        assert pool.hello.codecs["exiftool"] == str(installed().version)
        await pool.check()
        assert [path for path in folder.path.rglob("*") if path.is_file()] == []


async def test_equal_keys_are_both_printed(tmp_path: Path) -> None:
    content = png(text_chunk("Comment", "one"), text_chunk("Comment", "two"))
    async with engines(tmp_path) as (pool, folder):
        tags = parse((await read(pool, folder, content)).output)["PNG"]
        assert {"one", "two"} <= set(map(str, tags.values()))


async def test_the_structure_is_validated_on_request(tmp_path: Path) -> None:
    async with engines(tmp_path) as (pool, folder):
        printed = parse((await read(pool, folder, jpeg(), validate=True)).output)
        assert set(printed) == {"ExifTool"}, "the tags are read without it"
        assert "Missing required JPEG" in str(printed)
        assert b"Validate" not in (await read(pool, folder, jpeg())).output


async def test_a_killed_process_is_replaced_and_its_file_not_read_again(tmp_path: Path) -> None:
    async with engines(tmp_path) as (pool, folder):
        (pid,) = pool.pids
        os.kill(pid, signal.SIGSTOP)
        running = asyncio.create_task(read(pool, folder, jpeg()))
        await eventually(lambda: pool.statistics()["idle"] == 0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(SourceQuarantined):
            await running
        await eventually(lambda: pool.pids and pid not in pool.pids, timeout_s=60)
        assert parse((await read(pool, folder, jpeg())).output)
        assert pool.statistics()["restarts_crash"] == 1


async def test_a_process_that_hangs_is_killed_at_its_deadline(tmp_path: Path) -> None:
    async with engines(tmp_path, deadline_s=0.2) as (pool, folder):
        os.kill(pool.pids[0], signal.SIGSTOP)
        with pytest.raises(RenderTimeout):
            await read(pool, folder, jpeg())
        assert pool.statistics()["restarts_deadline"] == 1


async def test_too_much_output_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engines(tmp_path) as (pool, folder):
        monkeypatch.setattr(exiftool, "MAX_OUTPUT_BYTES", 10)
        with pytest.raises(SourceTooLarge):
            await read(pool, folder, jpeg())
        await eventually(lambda: pool.statistics()["restarts_oversize"] == 1)


async def test_a_process_that_uses_too_much_memory_is_replaced_after_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exiftool, "_REPLACED_AT_BYTES", 1)
    async with engines(tmp_path) as (pool, folder):
        if (await read(pool, folder, jpeg())).peak_bytes is None:
            pytest.skip("the kernel does not report the peak of memory")
        assert pool.statistics()["restarts_recycled"] == 1


async def test_a_process_is_replaced_after_its_number_of_files(tmp_path: Path) -> None:
    async with engines(tmp_path, max_jobs=2) as (pool, folder):
        for _ in range(2):
            await read(pool, folder, jpeg())
        assert pool.statistics()["restarts_recycled"] == 1
        assert exiftool.MAX_FILES == 200


ATTEMPTS = """#!/usr/bin/perl
# An exiftool that tries what a hostile file could make it do, and prints the result as a version.
use Socket;
$| = 1;
while (my $line = <STDIN>) {
    next unless $line =~ /^-execute(\\d+)/;
    my @done;
    push @done, 'reads' if open my $file, '<', '/etc/passwd';
    push @done, 'writes' if open my $own, '>', 'own';
    push @done, 'lists' if opendir my $folder, '..';
    push @done, 'connects' if socket my $socket, PF_INET, SOCK_STREAM, 0;
    push @done, 'executes' if defined(my $pid = fork);
    print "99.@{[scalar @done]}\\n@done\\n{ready$1}\\n";
}
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that the user of the confined processes can reach, unlike ``tmp_path``."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def test_a_process_cannot_read_write_connect_or_execute(tmp_path: Path, public: Path) -> None:
    script = public / "exiftool"
    script.write_text(ATTEMPTS)
    program = ExifToolProgram("/usr/bin/perl", str(script), installed().version)
    async with engines(tmp_path, program) as (pool, _):
        assert pool.hello.codecs["exiftool"] == "99.0"


async def test_an_exiftool_that_is_too_old_does_not_start(tmp_path: Path, public: Path) -> None:
    script = public / "exiftool"
    script.write_text(ATTEMPTS.replace("99.", "1."))
    program = ExifToolProgram("/usr/bin/perl", str(script), installed().version)
    with pytest.raises(ConfigurationError, match="too old"):
        async with engines(tmp_path, program):
            pass


def script_of(folder: Path, version: str) -> Path:
    """A folder as npm installs it."""
    library = folder / "lib" / "Image"
    library.mkdir(parents=True)
    (library / "ExifTool.pm").write_text(f"package Image::ExifTool;\n$VERSION = '{version}';\n")
    script = folder / "exiftool"
    script.write_text("#!/usr/bin/perl\n")
    return script


def test_the_newest_exiftool_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = script_of(tmp_path / "exiftool-vendored.pl" / "bin", "13.59")
    monkeypatch.setattr(exiftool, "_NPM_FOLDERS", (str(tmp_path),))
    program = find_program({})
    assert isinstance(program, ExifToolProgram)
    assert (program.script, str(program.version)) == (str(newer), "13.59")


def test_the_given_exiftool_is_used_even_if_another_is_newer(tmp_path: Path) -> None:
    given = script_of(tmp_path / "bin", "12.57")
    program = find_program({"EXIFTOOL_PATH": str(given)})
    assert isinstance(program, ExifToolProgram)
    assert program.script == str(given)


@pytest.mark.parametrize(
    ("version", "reason"), [("12.56", "too old"), ("twelve", "is no exiftool"), ("", "no exiftool")]
)
def test_an_unfit_exiftool_is_reported(tmp_path: Path, version: str, reason: str) -> None:
    given = script_of(tmp_path / "bin", version)
    if not version:
        given = tmp_path / "missing"
    found = find_program({"EXIFTOOL_PATH": str(given)})
    assert isinstance(found, str)
    assert reason in found


def test_the_interpreter_of_the_confined_processes_can_be_chosen() -> None:
    assert interpreter({}) == sys.executable
    assert interpreter({"PYTHON_PATH": sys.executable}) == sys.executable
    with pytest.raises(ConfigurationError, match="PYTHON_PATH"):
        interpreter({"PYTHON_PATH": "/no/python"})
