"""Tesseract: the text in a picture, read by a program that is there or is not.

It gets the picture on its standard input, as PNG made by a render worker: so it decodes nothing
that a stranger encoded. It runs confined (`proxy.rendering.worker.sandbox.exec_wrapper`), one at
a time, and is killed when it takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import math
import shutil
import sys
from typing import cast

from proxy.domain.image_analysis import ProviderGap, ReadText
from proxy.settings.vision import TextSettings

NAME = "tesseract"

_SURE = 60.0
"""Confidence of a word, of 100, below which it is taken for texture: what it reads in leaves."""
_LEAST_LETTERS = 2
"""Letters or digits that a line needs to be one."""
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_THREAD_LIMIT": "1"}
"""Nothing of the server's; more threads make it slower on small pictures."""
_WORD_LEVEL = "5"
_CHUNK = 64 * 1024


class TextReader:
    """Reads text with Tesseract."""

    def __init__(self, settings: TextSettings) -> None:
        """Looks for the program at once; installing it later needs a restart."""
        self._settings = settings
        self._program = shutil.which(settings.program) if settings.enabled else None
        self._turn = asyncio.Semaphore(1)

    @property
    def missing(self) -> str | None:
        """Why it cannot read; None where it can."""
        if not self._settings.enabled:
            return "reading text is switched off (vision.text.enabled)"
        return None if self._program else "tesseract is not installed"

    async def read(self, png: bytes) -> ReadText | ProviderGap:
        """The text in a picture, line by line, or why there is none to tell."""
        if self._program is None:
            return ProviderGap(NAME, str(self.missing))
        async with self._turn:
            try:
                async with asyncio.timeout(self._settings.timeout_s):
                    return await self._run(self._program, png)
            except TimeoutError:
                return ProviderGap(NAME, "tesseract took too long")
            except OSError as error:
                return ProviderGap(NAME, f"tesseract cannot be started: {error.strerror}")

    async def _run(self, program: str, png: bytes) -> ReadText | ProviderGap:
        process = await self._start(program)
        try:
            table, status = await _talk(process, png)
        finally:
            await _end(process)
        if status:
            return ProviderGap(NAME, f"tesseract ended with {status}")
        return ReadText(text_of(table.decode("utf-8", "replace")))

    async def _start(self, program: str) -> asyncio.subprocess.Process:
        orders = {
            "max_memory_bytes": self._settings.max_memory_bytes,
            "max_cpu_s": math.ceil(self._settings.timeout_s),
            "max_file_bytes": _MAX_ANSWER_BYTES,
        }
        return await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-I",
                "-m",
                "proxy.rendering.worker.sandbox.exec_wrapper",
                json.dumps(orders),
            ),
            *(program, "stdin", "stdout", "-l", self._settings.languages, "tsv"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=_ENVIRONMENT,
            start_new_session=True,
        )


async def _talk(process: asyncio.subprocess.Process, png: bytes) -> tuple[bytes, int]:
    """Hand the picture over while the answer is read; the answer and the exit status."""
    feeding = asyncio.create_task(_feed(process, png))
    try:
        answer = await _bounded(process)
        return answer, await process.wait()
    finally:
        feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeding


async def _feed(process: asyncio.subprocess.Process, png: bytes) -> None:
    stream = cast(asyncio.StreamWriter, process.stdin)
    with contextlib.suppress(ConnectionError):
        stream.write(png)
        await stream.drain()
    stream.close()


async def _bounded(process: asyncio.subprocess.Process) -> bytes:
    stream = cast(asyncio.StreamReader, process.stdout)
    answer = bytearray()
    while chunk := await stream.read(_CHUNK):
        answer += chunk
        if len(answer) > _MAX_ANSWER_BYTES:
            process.kill()
            break
    return bytes(answer)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what still runs, and wait for its end whoever is cancelled meanwhile."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())


def text_of(table: str) -> str:
    """The lines of the words that Tesseract is sure of, from its TSV."""
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in csv.DictReader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE):
        if row["level"] == _WORD_LEVEL and float(row["conf"]) >= _SURE:
            place = row["page_num"], row["block_num"], row["par_num"], row["line_num"]
            lines.setdefault(place, []).append(row["text"].strip())
    joined = (" ".join(words).strip() for words in lines.values())
    return "\n".join(line for line in joined if _letters(line) >= _LEAST_LETTERS)


def _letters(line: str) -> int:
    return sum(character.isalnum() for character in line)
