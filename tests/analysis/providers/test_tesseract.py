"""Reading text: by Tesseract itself, and what happens where it is missing, slow or wild."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from proxy.analysis.providers import tesseract as module
from proxy.analysis.providers.tesseract import TextReader, text_of
from proxy.domain.analysis import ProviderGap
from proxy.settings import WorkerSettings
from proxy.settings.vision import TextSettings
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.imaging.analysis.bench import page, photograph
from tests.support.unavailable import unavailable
from tests.support.waiting import eventually

HEAD = (
    "level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext"
)


WORKERS = WorkerSettings()
# A Python in the home directory of root can only be executed by root.
SAME_USER = WorkerSettings(uid=os.geteuid())
SHELL = os.path.realpath("/bin/sh")
PYTHON = os.path.realpath(sys.executable)
STDLIB = sysconfig.get_path("stdlib")


@pytest.fixture
def tesseract() -> TextReader:
    if shutil.which("tesseract") is None:
        unavailable("tesseract is not installed")
    return TextReader(TextSettings(nice=0), WORKERS)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, in which the permissions let every user do everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        monkeypatch.chdir(folder)
        yield folder


def program(
    folder: Path, script: str, *, interpreter: str = PYTHON, workers: WorkerSettings = WORKERS
) -> TextReader:
    """A reader whose Tesseract is an interpreter: the first argument, stdin, is its script."""
    file = folder / "stdin"
    if interpreter == PYTHON:
        # Python opens a script with ioctl(2), the modules of a directory without.
        file.mkdir()
        file /= "__main__.py"
    file.write_text(script)
    settings = TextSettings(program=interpreter, tessdata=str(folder), timeout_s=5, nice=0)
    reader = TextReader(settings, workers)
    if interpreter == PYTHON:
        reader._readable = (*reader._readable, STDLIB)
    return reader


async def test_a_page_is_read(tesseract: TextReader) -> None:
    found = await tesseract.read(studio.saved(page()))
    assert isinstance(found, str)
    lines = found.splitlines()
    assert len(lines) == 40
    assert lines.count("The quick brown fox jumps over the lazy dog, and then again") >= 38


async def test_a_photograph_without_text_has_none(tesseract: TextReader) -> None:
    assert await tesseract.read(studio.saved(photograph("kodak-23.png"))) == ""


async def test_what_is_no_picture_is_told(tesseract: TextReader) -> None:
    found = await tesseract.read(b"nonsense")
    assert isinstance(found, ProviderGap)
    assert "ended with" in found.reason


async def test_where_it_is_not_installed_there_is_a_reason() -> None:
    reader = TextReader(TextSettings(program="tesseract-that-is-not-there"), WORKERS)
    assert reader.missing == "Tesseract is not installed"
    assert await reader.read(b"") == ProviderGap("tesseract", "Tesseract is not installed")


async def test_it_may_be_switched_off() -> None:
    found = await TextReader(TextSettings(enabled=False), WORKERS).read(b"")
    assert isinstance(found, ProviderGap)
    assert "switched off" in found.reason


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Open files until no more are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        with suppress(OSError):
            while True:
                opened.enter_context(Path(os.devnull).open())
        yield


async def test_where_no_process_can_be_started_there_is_a_reason(folder: Path) -> None:
    reader = program(folder, "")
    with no_descriptors_left():
        found = await reader.read(b"")
    assert found == ProviderGap("tesseract", "Tesseract cannot be started: Too many open files")


def running(argument: str) -> list[int]:
    """Ids of the processes that have this argument."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if argument.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


@pytest.mark.slow
async def test_what_takes_too_long_is_killed(folder: Path) -> None:
    reader = program(folder, "import time; time.sleep(60)", workers=SAME_USER)
    reader._settings = reader._settings.model_copy(update={"timeout_s": 0.5})
    reading = asyncio.create_task(reader.read(b"x" * 10**7))
    await eventually(lambda: running(str(folder)))
    found = await reading
    assert isinstance(found, ProviderGap)
    assert found.temporary, "it had too little CPU time: another attempt may succeed"
    assert "got less than 0.5 s of CPU time within 2 s" in found.reason
    assert running(str(folder)) == []


async def test_without_language_files_there_is_a_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LANGUAGE_FILES", ())
    (folder / "bin").mkdir()
    copy = shutil.copy("/bin/sh", folder / "bin")
    reader = TextReader(TextSettings(program=str(copy), nice=0), WORKERS)
    assert "set vision.text.tessdata" in str(reader.missing)
    assert isinstance(await reader.read(b""), ProviderGap)
    (folder / "share/tessdata").mkdir(parents=True)
    assert TextReader(TextSettings(program=str(copy), nice=0), WORKERS).missing is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
async def test_a_program_that_only_root_can_execute_is_reported(folder: Path) -> None:
    copy = Path(shutil.copy("/bin/sh", folder / "tesseract"))
    copy.chmod(0o700)
    found = await program(folder, "exit 0", interpreter=str(copy)).read(b"")
    assert isinstance(found, ProviderGap)
    assert "cannot be executed by the user of the workers" in found.reason


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
async def test_a_program_in_a_directory_that_only_root_can_enter_is_reported(folder: Path) -> None:
    (folder / "home").mkdir(0o700)
    copy = Path(shutil.copy("/bin/sh", folder / "home/tesseract"))
    found = await program(folder, "exit 0", interpreter=str(copy)).read(b"")
    assert isinstance(found, ProviderGap)
    assert "cannot be executed by the user of the workers" in found.reason


async def test_it_is_not_run_on_a_system_that_cannot_confine_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_kernel = folder / "old_kernel.py"
    old_kernel.write_text(OLD_KERNEL.format(python=sys.executable))
    old_kernel.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(old_kernel))
    found = await program(folder, "exit 0", interpreter=SHELL).read(b"")
    assert isinstance(found, ProviderGap)
    assert "cannot confine it" in found.reason


OLD_KERNEL = """#!{python}
import errno, os, sys, pyseccomp
old = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
old.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "landlock_create_ruleset")
old.load()
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""

SHELL_PROBES = {
    "the passwords": "read line < /etc/shadow",
    "the users": "read line < /etc/passwd",
    "the environment of the server": 'while read -r line; do :; done < "/proc/$PPID/environ"',
    "its command line": 'while read -r line; do :; done < "/proc/$PPID/cmdline"',
    "a new file": ": > written",
    "a new file in /tmp": ": > /tmp/written-by-tesseract",
    "a new file in memory": ": > /dev/shm/written-by-tesseract",
    "a longer file": ": >> stdin",
    "another program": "exec /bin/true",
    "another process": "(exit 0)",
    "a signal to the server": 'kill -0 "$PPID"',
    "a variable of the server": '[ -n "$SMARTSERVE_SECRET" ]',
}
"""A shell that was run like this could do the first ones, see the control below."""

PROBES = {
    "a socket": "import socket; socket.socket()",
    "a Unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "a list of files": "import os; os.listdir('/etc')",
    "a directory": "import os; os.mkdir('made')",
    "another name": "import os; os.rename('stdin', 'renamed')",
    "no file": "import os; os.unlink('stdin/__main__.py')",
    "a file in memory": "import os; os.memfd_create('x')",
    "a child": "import os; os.fork() or os._exit(0)",
    "a program": "import os; os.posix_spawn('/bin/true', ['true'], {})",
    "the signals of a descriptor": "import fcntl; fcntl.fcntl(0, fcntl.F_SETOWN, 0)",
    "a process to signal": "import os; os.pidfd_open(os.getppid())",
    "a longer time": "import resource as r; r.setrlimit(r.RLIMIT_CPU, r.getrlimit(r.RLIMIT_CPU))",
    "much memory": "bytearray(1200 * 2**20)",
    "a variable of ours": "import os; os.environ['SMARTSERVE_SECRET']",
    "a higher priority": "import os; os.setpriority(os.PRIO_PROCESS, 0, 0)",
}
ALWAYS_DENIED = {"much memory", "a variable of ours", "a higher priority"}
"""Also if the sandbox is switched off."""

OUTSIDE = WorkerSettings(sandbox=False)


@pytest.mark.parametrize("workers", [WORKERS, SAME_USER], ids=["other user", "same user"])
@pytest.mark.parametrize("what", SHELL_PROBES)
async def test_a_shell_in_its_place_cannot_get(
    what: str, workers: WorkerSettings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTSERVE_SECRET", "hunter2")
    # A failed redirection of a special builtin ends the shell; in a group it does not.
    script = f"if {{ {SHELL_PROBES[what]}; }}; then exit 3; fi\nexit 7"
    found = await program(folder, script, interpreter=SHELL, workers=workers).read(b"")
    assert isinstance(found, ProviderGap)
    statuses = [f"Tesseract ended with status {status}" for status in (7, 2)]
    assert found.reason in {
        *statuses,
        "Tesseract cannot be executed by the user of the workers (workers.uid)",
    }
    assert [file.name for file in folder.iterdir()] == ["stdin"]


@pytest.mark.parametrize("what", sorted(set(SHELL_PROBES) - {"a variable of the server"}))
async def test_a_shell_outside_the_sandbox_gets(what: str, folder: Path) -> None:
    """The failures above are caused by the sandbox."""
    if what == "the passwords" and os.geteuid() != 0:
        pytest.skip("only root may read them")
    script = f"if {{ {SHELL_PROBES[what]}; }}; then exit 3; fi\nexit 7"
    found = await program(folder, script, interpreter=SHELL, workers=OUTSIDE).read(b"")
    if what == "another program":
        assert found == "", "it became that program"
    else:
        assert found == ProviderGap("tesseract", "Tesseract ended with status 3")
    for left in (Path("/tmp/written-by-tesseract"), Path("/dev/shm/written-by-tesseract")):
        left.unlink(missing_ok=True)


def attempt(what: str) -> str:
    return f"try:\n    {PROBES[what]}\nexcept BaseException:\n    raise SystemExit(7)"


@pytest.mark.parametrize("what", PROBES)
async def test_a_program_in_its_place_cannot_get(
    what: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTSERVE_SECRET", "hunter2")
    found = await program(folder, attempt(what), workers=SAME_USER).read(b"")
    assert found == ProviderGap("tesseract", "Tesseract ended with status 7")


@pytest.mark.parametrize("what", sorted(set(PROBES) - ALWAYS_DENIED))
async def test_a_program_outside_the_sandbox_gets(what: str, folder: Path) -> None:
    assert await program(folder, attempt(what), workers=OUTSIDE).read(b"") == ""


@pytest.mark.parametrize(
    "answer", ["no table\\nat all", "level\\n5", HEAD + "\\n" + "5\\t" * 10 + "x\\t"]
)
async def test_an_answer_that_is_no_table_is_a_reason(answer: str, folder: Path) -> None:
    reader = program(folder, f'printf "{answer}"', interpreter=SHELL)
    assert await reader.read(b"") == ProviderGap("tesseract", "Tesseract's answer is not a table")


async def test_what_needs_too_much_cpu_time_is_ended_by_the_kernel(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine a second of CPU time may take long.
    monkeypatch.setattr(module, "_WALL_CLOCK_FACTOR", 250)
    reader = program(folder, "while :; do :; done", interpreter=SHELL)
    reader._settings = reader._settings.model_copy(update={"timeout_s": 1})
    assert await reader.read(b"") == ProviderGap(
        "tesseract", "Tesseract needs more than 1 s of CPU time (vision.text.timeout_s)"
    )


async def test_an_answer_without_end_is_cut_off(folder: Path) -> None:
    script = "import os\nwhile True: os.write(1, bytes(65536))"
    reader = program(folder, script, workers=SAME_USER)
    assert await reader.read(b"") == ProviderGap("tesseract", "Tesseract ended with status 1")


def test_only_words_that_it_is_sure_of_count() -> None:
    rows = [
        "5\t1\t1\t1\t1\t1\t0\t0\t9\t9\t96.5\tFREE",
        "5\t1\t1\t1\t1\t2\t0\t0\t9\t9\t12\tnoise",
        '5\t1\t1\t1\t2\t1\t0\t0\t9\t9\t91\t"BIRD',
        "5\t1\t2\t1\t1\t1\t0\t0\t9\t9\t95\t|",
        "4\t1\t2\t1\t1\t0\t0\t0\t9\t9\t-1\t",
    ]
    assert text_of("\n".join([HEAD, *rows])) == 'FREE\n"BIRD'
    assert text_of("") == ""
