"""Text recognition with Tesseract, if the program is installed.

It receives a PNG from a render worker on standard input, so it never decodes a file of a client. It
runs confined (`proxy.rendering.worker.sandbox.exec_wrapper`), one process at a time, with a
time limit.
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
import sys

from proxy.domain.analysis import ProviderGap
from proxy.settings.vision import TextSettings

NAME = "tesseract"

_MIN_CONFIDENCE = 60.0
"""Of 100. Words below it are mostly texture, for example leaves."""
_MIN_LETTERS = 2
"""Letters or digits in a line. Shorter lines are mostly texture."""
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
# Nothing of the server's environment, which contains keys. More threads are slower on one page.
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_THREAD_LIMIT": "1"}
_WORD_LEVEL = "5"


class TextReader:
    """Recognises text with Tesseract."""

    def __init__(self, settings: TextSettings) -> None:
        """Search the program once; a later installation needs a restart."""
        self._settings = settings
        self._program = shutil.which(settings.program) if settings.enabled else None
        self._turn = asyncio.Semaphore(1)

    @property
    def missing(self) -> str | None:
        """Return why text cannot be recognised, or None if it can."""
        if not self._settings.enabled:
            return "Text recognition is switched off (vision.text.enabled)"
        return None if self._program else "Tesseract is not installed"

    async def read(self, png: bytes) -> str | ProviderGap:
        """Return the text of an image line by line, or the reason why there is none."""
        if self._program is None:
            return ProviderGap(NAME, str(self.missing))
        # One process at a time: each may use `max_memory_bytes`.
        async with self._turn:
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    return await self._run(self._program, png)
            except TimeoutError:
                limit_s = self._settings.timeout_s
                return ProviderGap(NAME, f"Tesseract did not finish within {limit_s:g} s")
            except OSError as error:
                return ProviderGap(NAME, f"Tesseract cannot be started: {error.strerror}")

    async def _run(self, program: str, png: bytes) -> str | ProviderGap:
        limits = {
            "max_memory_bytes": self._settings.max_memory_bytes,
            "max_cpu_s": math.ceil(self._settings.timeout_s),
            "max_file_bytes": _MAX_ANSWER_BYTES,
        }
        wrapper = "proxy.rendering.worker.sandbox.exec_wrapper"
        # The answer goes to a file in memory, whose size the kernel limits (RLIMIT_FSIZE).
        answer = os.memfd_create(NAME)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", wrapper, json.dumps(limits)),
                *(program, "stdin", "stdout", "-l", self._settings.languages, "tsv"),
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
                return ProviderGap(NAME, f"Tesseract ended with status {process.returncode}")
            table = os.pread(answer, _MAX_ANSWER_BYTES, 0)
        finally:
            os.close(answer)
        return text_of(table.decode("utf-8", "replace"))


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
