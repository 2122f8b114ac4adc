"""Requests to a faulty server: responses as plain values, and the resources that it uses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; status 0 if the connection was closed before it was complete."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] | None = None


async def fetch(client: aiohttp.ClientSession, target: str, **headers: str) -> Answer:
    """Return one response; TimeoutError if there is none within 30 s."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with client.get(target, headers=headers, timeout=timeout) as answer:
            return Answer(answer.status, await answer.read(), answer.headers)
    except aiohttp.ClientError:
        return Answer(0)


async def fetch_all(
    client: aiohttp.ClientSession, targets: Iterable[str], *, at_once: int = 8
) -> dict[str, Answer]:
    """Return the response to each target, requested a few at a time."""
    gate = asyncio.Semaphore(at_once)

    async def one(target: str) -> tuple[str, Answer]:
        async with gate:
            return target, await fetch(client, target)

    return dict(await asyncio.gather(*map(one, targets)))


def bodies(answers: Mapping[str, Answer]) -> dict[str, bytes]:
    """Return the bodies of responses, all of which must be images."""
    assert {answer.status for answer in answers.values()} == {200}, statuses(answers)
    return {target: answer.body for target, answer in answers.items()}


def statuses(answers: Mapping[str, Answer]) -> dict[str, int]:
    """Return the status of each response that is not an image."""
    return {target: answer.status for target, answer in answers.items() if answer.status != 200}


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, in seconds (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> int:
    """Return how many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
