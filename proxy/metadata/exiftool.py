"""Resident exiftool processes (``-stay_open``), confined like Tesseract, for a `WorkerPool`.

A process gets the arguments of a file on its standard input and answers with JSON. It can read
perl's libraries and its own folder, into which the file is linked under a name of the server's:
a name of a client's could contain a line feed, which would be another argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from packaging.version import InvalidVersion, Version

from proxy.domain.errors import ConfigurationError, SourceTooLarge
from proxy.domain.worker_protocol import HOLDS, Job, Ping, WorkerInfo
from proxy.metadata.temp_folder import ReceivedFile, TempFolder, random_name
from proxy.rendering.pool.process import (
    OnFree,
    OnLost,
    PendingJob,
    PoolProcess,
    TimeLimit,
    WorkerDied,
)
from proxy.rendering.pool.worker_start import WorkerUnfit, log_stderr
from proxy.runtime.supervised_task import BackgroundTask, TaskSupervisor, cancel
from proxy.settings import WorkerSettings

MIN_VERSION = Version("12.57")
MAX_OUTPUT_BYTES = 8 * 1024 * 1024
MAX_FILES = 200
"""Files after which a process is replaced."""
MAX_MEMORY_BYTES = 512 * 1024 * 1024
"""Address space of a process: enough for every real file; a bomb ends in two seconds."""
_REPLACED_AT_BYTES = 150 * 1024 * 1024

ARGUMENTS = ("-j", "-G1:4", "-a", "-u", "-struct", "-n", "-api", "LargeFileSupport=1")
"""Arguments for each file."""
_ENVIRONMENT = {"LANG": "C.UTF-8", "TZ": "UTC"}
# The CPU time of each file is limited by the pool: the kernel's limit is for the whole life.
_MAX_LIFE_CPU_S = 100_000
_DEBIAN = Path("/usr/bin/exiftool")
_NPM = "exiftool-vendored.pl/bin/exiftool"
_NPM_FOLDERS = ("/usr/local/lib/node_modules", "/usr/lib/node_modules", "node_modules")
_PERL_LIBRARIES = ("/usr/share/perl5", "/usr/share/perl", "/usr/local/share/perl", "/etc/perl")
_MODULE_FOLDERS = ("/usr/share/perl5", "/usr/local/share/perl5")
_VERSION = re.compile(r"^\$VERSION = '([0-9.]+)';", re.MULTILINE)
_VERSION_WITHIN = 8192
_READ_BYTES = 256 * 1024
_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class ExifToolProgram:
    """An installed exiftool."""

    perl: str
    script: str
    version: Version

    @property
    def readable(self) -> tuple[str, ...]:
        """Files and folders that the program reads."""
        folder = Path(self.script).parent
        return (self.script, str(folder / "lib"), str(folder.parent / "lib"), *_PERL_LIBRARIES)


def find_program(environment: Mapping[str, str]) -> ExifToolProgram | str:
    """Return `EXIFTOOL_PATH`, else the newest installed exiftool, or why there is none.

    Blocking.
    """
    perl = shutil.which("perl")
    if perl is None:
        return "perl is not installed"
    if given := environment.get("EXIFTOOL_PATH"):
        paths = [Path(given)]
    else:
        paths = [_DEBIAN, *(Path(folder).absolute() / _NPM for folder in _NPM_FOLDERS)]
    found = [
        ExifToolProgram(perl, os.path.realpath(path), version)
        for path in paths
        if (version := _version_of(path)) is not None
    ]
    if not found:
        # The reason is sent to clients too, so it has no path.
        named = "EXIFTOOL_PATH is no exiftool" if given else "exiftool is not installed"
        return f"{named}. Install libimage-exiftool-perl (Debian) or exiftool-vendored.pl (npm)"
    newest = max(found, key=lambda one: one.version)
    if newest.version < MIN_VERSION:
        return f"exiftool {newest.version} is too old; {MIN_VERSION} is required"
    return newest


def _version_of(script: Path) -> Version | None:
    """Read the version from the library that belongs to a script."""
    folder = Path(os.path.realpath(script)).parent
    libraries = (folder / "lib", folder.parent / "lib", *map(Path, _MODULE_FOLDERS))
    modules = [library / "Image" / "ExifTool.pm" for library in libraries]
    own = next((module for module in modules if module.is_file()), None)
    if own is None or not script.is_file():
        return None
    with contextlib.suppress(OSError, InvalidVersion):
        if match := _VERSION.search(own.read_text(errors="replace")[:_VERSION_WITHIN]):
            return Version(match[1])
    return None


@dataclass(frozen=True, slots=True)
class ExifToolJob(Job["ExifToolReply"]):
    """Read the tags of a file, or only validate their structure.

    ``suffix`` is the extension of its format: it distinguishes formats that are based on TIFF.
    """

    name: str
    dir_fd: int
    suffix: str
    validate: bool

    @classmethod
    def of(cls, file: ReceivedFile, *, suffix: str, validate: bool = False) -> ExifToolJob:
        """Return the job for a file, which must stay open until the reply."""
        return cls(file.name, file.dir_fd, suffix, validate)


@dataclass(frozen=True, slots=True)
class ExifToolReply:
    """What exiftool printed."""

    output: bytes
    peak_bytes: int | None
    """Largest resident memory during the file; None if the kernel does not report it."""


class ExifToolProcess:
    """A resident process, which reads one file at a time."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        output: int,
        folder: tuple[Path, int],
        *,
        stderr_log: asyncio.Task[Any],
        owned: ExitStack,
    ) -> None:
        """Take ownership of ``owned``, which closes ``output`` and removes the folder."""
        self._process = process
        self._input = cast("asyncio.StreamWriter", process.stdin)
        self._output = output
        _, self._folder = folder
        self._stderr_log = stderr_log
        self._owned = owned
        self._job: PendingJob | None = None
        self._file = ""
        self._marker = b""
        self._received = bytearray()
        self._ended = False
        self._resettable = False
        self.hello = WorkerInfo("", ())
        self.jobs = 0
        self.outgrown = False

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether the process has not ended."""
        return not self._ended and self._process.returncode is None

    def attend(self, *, on_free: OnFree, on_lost: OnLost) -> None:
        """Start to read the output; see `PoolProcess`."""
        self._on_free = on_free
        self._on_lost = on_lost
        asyncio.get_running_loop().add_reader(self._output, self._on_readable)

    def begin(self, job: PendingJob) -> bool:
        """Give a job to this idle process; return False if it is gone."""
        if not self.alive:
            return False
        order = job.job
        if isinstance(order, ExifToolJob):
            self._file = f"{random_name()}.{order.suffix}"
            os.link(order.name, self._file, src_dir_fd=order.dir_fd, dst_dir_fd=self._folder)
            # Its warnings are about the standard, so they must not count as faults of the reading.
            validate = ("-validate", "-warning", "-error") if order.validate else ()
            arguments = [*ARGUMENTS, *validate, self._file]
        else:
            arguments = ["-ver"]  # a `Ping`
        self._resettable = _reset_peak(self.pid)
        self._job = job
        job.worker_pid = self.pid
        self._send(arguments)
        return True

    def _send(self, arguments: list[str]) -> None:
        number = int.from_bytes(os.urandom(6), "big")
        # exiftool escapes line feeds in JSON, so no value of a file can contain the marker.
        self._marker = b"{ready%d}\n" % number
        self._received.clear()
        lines = "".join(f"{one}\n" for one in [*arguments, f"-execute{number}"])
        self._input.write(lines.encode())

    def works_on(self, job: PendingJob) -> bool:
        """Return whether this is the job in progress."""
        return self._job is job

    def _on_readable(self) -> None:
        try:
            chunk = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return
        self._received += chunk
        if not chunk:
            self._lose("crash")
        elif self._job is None:
            self._lose("protocol")
        elif len(self._received) > MAX_OUTPUT_BYTES + len(self._marker):
            # The pool ends this process.
            self._job.fail(SourceTooLarge("exiftool printed more than 8 MiB"))
        elif self._received.endswith(self._marker):
            self._free(self._job, bytes(self._received[: -len(self._marker)]))

    def _free(self, job: PendingJob, output: bytes) -> None:
        self._unlink()
        self._job = None
        peak = _peak_bytes(self.pid) if self._resettable else None
        reply = self.hello if isinstance(job.job, Ping) else ExifToolReply(output, peak)
        self.jobs += 1
        self.outgrown = (peak or 0) > _REPLACED_AT_BYTES
        try:
            self._on_free(self)
        finally:
            job.finish(reply)

    def _lose(self, reason: str) -> None:
        self.end(WorkerDied(reason))
        self._on_lost(self, reason)

    def end(self, death: WorkerDied) -> None:
        """Kill the process and fail the job in progress."""
        self.kill()
        self._stop_reading()
        self._unlink()
        job, self._job = self._job, None
        if job is not None:
            job.fail(death)

    def kill(self) -> None:
        """Send SIGKILL; no effect if the process has ended."""
        self._ended = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _unlink(self) -> None:
        if self._file:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._file, dir_fd=self._folder)
            self._file = ""

    def _stop_reading(self) -> None:
        asyncio.get_running_loop().remove_reader(self._output)

    async def hand_shake(self, limit: TimeLimit, *, confined: bool) -> None:
        """Wait for the version of a process that was just started.

        Raises:
            WorkerDied: it did not answer in time.
            WorkerUnfit: it cannot be confined, or is too old.
        """
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        loop.add_reader(self._output, changed.set)
        try:
            self._send(["-ver"])
            while not self._received.endswith(self._marker):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(limit.next_check_s):
                        await changed.wait()
                changed.clear()
                with contextlib.suppress(BlockingIOError):
                    chunk = os.read(self._output, _READ_BYTES)
                    self._received += chunk
                    if not chunk:
                        raise await self._start_error()
                if limit.check():
                    raise WorkerDied("start")
        finally:
            loop.remove_reader(self._output)
        version = self._received.decode(errors="replace").split()[0]
        if Version(version) < MIN_VERSION:
            raise WorkerUnfit(f"exiftool {version} is too old; {MIN_VERSION} is required")
        # The wrapper refuses to start a program that it cannot confine.
        state = HOLDS if confined else "switched off by workers.sandbox"
        self.hello = WorkerInfo("", (), {"exiftool": version}, {"landlock": state})

    async def _start_error(self) -> WorkerUnfit:
        status = await self._process.wait()
        if status == os.EX_NOPERM:
            return WorkerUnfit(
                "exiftool is not run because this system cannot confine it: Landlock or seccomp is"
                " missing. `smartserve doctor` shows the reason"
            )
        return WorkerUnfit(f"exiftool ended with status {status}")

    async def aclose(self) -> None:
        """End the process, wait for its end, and remove its folder."""
        self._stop_reading()
        self.kill()
        await asyncio.shield(self._process.wait())
        await asyncio.wait([self._stderr_log], timeout=_CLOSE_S)
        await cancel(self._stderr_log)
        self._owned.close()


async def start_exiftool(
    program: ExifToolProgram,
    folder: TempFolder,
    settings: WorkerSettings,
    *,
    python: str,
    supervisor: TaskSupervisor,
) -> PoolProcess:
    """Start a process and wait until it has reported its version.

    Raises:
        WorkerDied: it did not answer in time.
        WorkerUnfit: it cannot be confined, or is too old.
    """
    with ExitStack() as owned:
        private = owned.enter_context(folder.private_folder())
        output, theirs = os.pipe2(os.O_CLOEXEC)
        owned.callback(os.close, output)
        os.set_blocking(output, False)
        try:
            process = await _spawn(program, private[0], theirs, settings, python)
        finally:
            os.close(theirs)
        printed = partial(log_stderr, process.stderr, process.pid)
        log = supervisor.start(BackgroundTask.WORKER_STDERR, printed)
        engine = ExifToolProcess(process, output, private, stderr_log=log, owned=owned.pop_all())
    limit = TimeLimit(process.pid, settings.start_timeout_s, wall_factor=settings.wall_clock_factor)
    try:
        await engine.hand_shake(limit, confined=settings.sandbox)
    except BaseException:
        await engine.aclose()
        raise
    return engine


async def _spawn(
    program: ExifToolProgram, folder: Path, output: int, settings: WorkerSettings, python: str
) -> asyncio.subprocess.Process:
    options = {
        "nice": settings.nice,
        "max_memory_bytes": MAX_MEMORY_BYTES,
        "max_cpu_s": _MAX_LIFE_CPU_S,
        "max_file_bytes": 0,
        "sandbox": settings.sandbox,
        "uid": settings.uid,
        # Its folder is the working directory: another user cannot reach it by its path.
        "readable": (*program.readable, "."),
        "parent": os.getpid(),
    }
    wrapper = "proxy.rendering.worker.sandbox.exec_wrapper"
    return await asyncio.create_subprocess_exec(
        *(python, "-I", "-m", wrapper, json.dumps(options), program.perl, program.script),
        # An empty name: for /dev/null exiftool prints a warning.
        *("-config", "", "-stay_open", "True", "-@", "-"),
        stdin=asyncio.subprocess.PIPE,
        stdout=output,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env=_ENVIRONMENT,
        start_new_session=True,
    )


def interpreter(environment: Mapping[str, str]) -> str:
    """Return the interpreter of the confined processes: `PYTHON_PATH`, or the current one.

    Raises:
        ConfigurationError: it cannot be executed.
    """
    python = environment.get("PYTHON_PATH") or sys.executable
    if shutil.which(python) is None:
        raise ConfigurationError([f"PYTHON_PATH: {python} cannot be executed"])
    return python


def _reset_peak(pid: int) -> bool:
    """Reset the peak of resident memory (proc_pid_clear_refs(5)); return whether it worked."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_bytes(pid: int) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    return None
