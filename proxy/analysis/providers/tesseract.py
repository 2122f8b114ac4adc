"""Text recognition with Tesseract, if the program is installed.

It receives a PNG from a render worker on standard input, so it never decodes a file of a client. It
runs in the sandbox of the workers, with its language files readable
(`proxy.rendering.worker.sandbox.exec_wrapper`), one process at a time, with a time limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import math
import os
import shutil
import signal
import sys
from itertools import chain
from pathlib import Path

from proxy.domain.analysis import ProviderGap
from proxy.settings import WorkerSettings
from proxy.settings.vision import TextSettings

NAME = "tesseract"

_MIN_CONFIDENCE = 60.0
"""Of 100. Words below it are mostly texture, for example leaves."""
_MIN_LETTERS = 2
"""Letters or digits in a line. Shorter lines are mostly texture."""
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
# Nothing of the server's environment, which contains keys. More threads are slower on one page.
_ENVIRONMENT = {"LANG": "C.UTF-8", "OMP_THREAD_LIMIT": "1"}
_LANGUAGE_FILES = (
    *("usr/share/tesseract-ocr/*/tessdata", "usr/share/tesseract-ocr/tessdata"),
    *("usr/share/tessdata", "usr/local/share/tessdata"),
)
_CANNOT_EXECUTE = 126
_WORD_LEVEL = "5"
_WALL_CLOCK_FACTOR = 4
# Raised for a table that lacks columns or has no numbers.
_NO_TABLE = (KeyError, ValueError, TypeError, AttributeError, csv.Error)


class TextReader:
    """Recognises text with Tesseract."""

    def __init__(self, settings: TextSettings, workers: WorkerSettings) -> None:
        """Search the program once; a later installation needs a restart.

        ``workers`` has the settings of the sandbox.
        """
        self._settings = settings
        self._workers = workers
        self._program = shutil.which(settings.program) if settings.enabled else None
        self._tessdata = settings.tessdata or _language_files(self._program)
        self._readable: tuple[str, ...] = (self._tessdata,)
        self._turn = asyncio.Semaphore(1)

    @property
    def missing(self) -> str | None:
        """Return why text cannot be recognised, or None if it can."""
        if not self._settings.enabled:
            return "Text recognition is switched off (vision.text.enabled)"
        if not self._program:
            return "Tesseract is not installed"
        return (
            None if self._tessdata else "Tesseract has no language files; set vision.text.tessdata"
        )

    async def read(self, png: bytes) -> str | ProviderGap:
        """Return the text of an image line by line, or the reason why there is none."""
        if self._program is None or self.missing:
            return ProviderGap(NAME, str(self.missing))
        limit_s = self._settings.timeout_s
        # One process at a time: each may use `max_memory_bytes`.
        async with self._turn:
            try:
                async with asyncio.timeout(limit_s * _WALL_CLOCK_FACTOR):
                    return await self._run(self._program, png)
            except TimeoutError:
                # The kernel limits the CPU time to `timeout_s`, so a busy machine is to blame.
                reason = (
                    f"Tesseract got less than {limit_s:g} s of CPU time within"
                    f" {limit_s * _WALL_CLOCK_FACTOR:g} s"
                )
                return ProviderGap(NAME, reason, temporary=True)
            except OSError as error:
                return ProviderGap(NAME, f"Tesseract cannot be started: {error.strerror}")

    async def _run(self, program: str, png: bytes) -> str | ProviderGap:
        options = {
            "nice": self._settings.nice,
            "max_memory_bytes": self._settings.max_memory_bytes,
            "max_cpu_s": math.ceil(self._settings.timeout_s),
            "max_file_bytes": _MAX_ANSWER_BYTES,
            "sandbox": self._workers.sandbox,
            "uid": self._workers.uid,
            "readable": self._readable,
            "parent": os.getpid(),
        }
        wrapper = "proxy.rendering.worker.sandbox.exec_wrapper"
        # The answer goes to a file in memory, whose size the kernel limits (RLIMIT_FSIZE).
        answer = os.memfd_create(NAME)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", wrapper, json.dumps(options)),
                *(program, "stdin", "stdout", "--tessdata-dir", self._tessdata),
                *("-l", self._settings.languages, "tsv"),
                stdin=asyncio.subprocess.PIPE,
                stdout=answer,
                stderr=asyncio.subprocess.DEVNULL,
                env=_ENVIRONMENT,
                # Ctrl-C in a terminal must not end it before the server decides so.
                start_new_session=True,
            )
            try:
                await process.communicate(png)
            finally:
                await _end(process)
            if process.returncode:
                return ProviderGap(NAME, self._reason(process.returncode))
            table = os.pread(answer, _MAX_ANSWER_BYTES, 0)
        finally:
            os.close(answer)
        try:
            return text_of(table.decode("utf-8", "replace"))
        except _NO_TABLE:
            return ProviderGap(NAME, "Tesseract's answer is not a table")

    def _reason(self, status: int) -> str:
        if status == os.EX_NOPERM:
            return (
                "Tesseract is not run because this system cannot confine it: Landlock or seccomp is"
                " missing. `smartserve doctor` shows the reason"
            )
        if status == _CANNOT_EXECUTE:
            return "Tesseract cannot be executed by the user of the workers (workers.uid)"
        if -status in (signal.SIGKILL, signal.SIGXCPU):
            limit_s = math.ceil(self._settings.timeout_s)
            return f"Tesseract needs more than {limit_s} s of CPU time (vision.text.timeout_s)"
        return f"Tesseract ended with status {status}"


def _language_files(program: str | None) -> str:
    """Return the directory of the language files, or "" if it is in none of the usual places."""
    # Of a program outside the system's directories, they are beside it.
    own = [] if program is None else [Path(program).resolve().parent.parent / "share/tessdata"]
    places = (sorted(Path("/").glob(pattern), reverse=True) for pattern in _LANGUAGE_FILES)
    return next((str(path) for path in chain(own, *places) if path.is_dir()), "")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process if it still runs, and wait for it even if this call is cancelled."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())


def text_of(table: str) -> str:
    """Return the lines of all words with sufficient confidence, from the TSV of Tesseract."""
    lines: dict[tuple[str, ...], list[str]] = {}
    # Unquoted: Tesseract does not escape quotation marks in words.
    for row in csv.DictReader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE):
        if row["level"] == _WORD_LEVEL and float(row["conf"]) >= _MIN_CONFIDENCE:
            # These four numbers identify a line; words arrive in reading order.
            place = row["page_num"], row["block_num"], row["par_num"], row["line_num"]
            lines.setdefault(place, []).append(row["text"].strip())
    joined = (" ".join(words).strip() for words in lines.values())
    return "\n".join(line for line in joined if sum(map(str.isalnum, line)) >= _MIN_LETTERS)
