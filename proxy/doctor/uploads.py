"""Uploads and what is asked elsewhere: the main API, the queue, the vision keys, Tesseract."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from proxy.analysis.providers.tesseract import TextReader
from proxy.doctor import Diagnosis, failed, reason_of, skipped, warned, well
from proxy.doctor.figures import counted
from proxy.domain.errors import MainApiForbidden, SmartserveError
from proxy.domain.ingest_item import QueueReport
from proxy.ingest.main_api import MainApi
from proxy.settings import Settings, provider_key

OpenMainApi = Callable[[], AbstractAsyncContextManager[MainApi]]
_LANGUAGES_S = 10.0


@dataclass(frozen=True, slots=True)
class UploadsFacts:
    """What was seen of the ways in and of those who are asked."""

    main_api_url: str
    """Empty where there is no other than this server."""
    pending: int
    """Uploads that wait there."""
    refusal: SmartserveError | None
    """Why it cannot be asked."""
    queue: QueueReport | None
    """None where nobody works on uploads."""
    no_queue: str
    """Why it cannot be told how the queue is."""
    keys: Sequence[str]
    """Providers that have a key."""
    no_text: str
    """Why no text is read; empty where it is."""
    languages: str
    """What Tesseract is to read."""
    absent: tuple[str, ...]
    """Of these, those that it has not."""


async def look(
    settings: Settings,
    *,
    main_api: OpenMainApi,
    queue: Callable[[], Awaitable[QueueReport]] | None,
) -> UploadsFacts:
    """Ask the main API and the queue; no provider is asked, as that costs money."""
    url = settings.ingest.main_api_url
    pending, refusal = await _pending(settings, main_api) if url else (0, None)
    report, no_queue = None, ""
    if queue is not None:
        try:
            report = await queue()
        except SmartserveError as error:
            no_queue = reason_of(error)
    vision = settings.vision
    named = {"google": vision.google, "openai": vision.openai}
    no_text = TextReader(vision.text).missing or ""
    absent = () if no_text else await _absent(vision.text.program, vision.text.languages)
    return UploadsFacts(
        main_api_url=url,
        pending=pending,
        refusal=refusal,
        queue=report,
        no_queue=no_queue,
        keys=[name for name, section in named.items() if provider_key(section, name)],
        no_text=no_text,
        languages=vision.text.languages,
        absent=absent,
    )


async def _pending(settings: Settings, main_api: OpenMainApi) -> tuple[int, SmartserveError | None]:
    if not await asyncio.to_thread(_has_key, settings):
        return 0, MainApiForbidden("no key is set to show it")
    try:
        async with main_api() as api:
            return len(await api.pending()), None
    except SmartserveError as error:
        return 0, error


def _has_key(settings: Settings) -> bool:
    """Whether there is one to show; else one would be made by asking for it."""
    ingest, main = settings.ingest, settings.main
    given = ingest.main_api_key, ingest.main_api_key_file, main.key, main.key_file
    return any(given) or (settings.key_directory / "media_api").is_file()


async def _absent(program: str, languages: str) -> tuple[str, ...]:
    """The languages that Tesseract is to read and has no data for."""
    process = await asyncio.create_subprocess_exec(
        *(program, "--list-langs"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_LANGUAGES_S):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    there = set(told.decode("utf-8", "replace").split())
    return tuple(one for one in languages.split("+") if one not in there)


def judge_main_api(seen: UploadsFacts) -> Diagnosis:
    """Whether another main API can be asked with our key."""
    if not seen.main_api_url:
        return skipped("ingest.main_api_url is not set: this server is its own main API")
    if seen.refusal is None:
        waiting = counted(seen.pending, "upload waits", "uploads wait")
        return well(f"{seen.main_api_url} takes the key; {waiting}")
    told = f"{seen.main_api_url}: {reason_of(seen.refusal)}"
    if isinstance(seen.refusal, MainApiForbidden):
        return failed(told, "set ingest.main_api_key (MAIN_API_KEY) to its MEDIA_API_KEY")
    return failed(told, "is it up, and is ingest.main_api_url right? Uploads wait there meanwhile")


def judge_queue(seen: UploadsFacts) -> Diagnosis:
    """Whether uploads get through."""
    if seen.no_queue:
        return failed(seen.no_queue, "see the checks of the database")
    report = seen.queue
    if report is None:
        return skipped("main.enabled is false and no main API is named: no uploads are taken in")
    states = ", ".join(f"{count} {state}" for state, count in report.states.items() if count)
    told = states or "no uploads yet"
    if report.stuck:
        advice = (
            "'smartserve status' shows at which step and why; does a worker run (ingest.embedded,"
            " smartserve ingest)?"
        )
        stuck = f"{counted(report.stuck, 'upload')} open for more than an hour"
        return failed(f"{stuck}; {told}", advice)
    if report.run_out:
        advice = "workers were killed, out of memory as a rule: dmesg, and 'smartserve status'"
        return warned(f"{counted(report.run_out, 'lease')} run out; {told}", advice)
    if report.failed_for_good:
        advice = "'smartserve status' names the reasons; most are their users' affair"
        lost = counted(report.failed_for_good, "upload")
        return warned(f"{lost} failed for good; {told}", advice)
    return well(told)


def judge_vision(seen: UploadsFacts) -> Diagnosis:
    """Whether somebody is asked about pictures; nobody is asked here."""
    if not seen.keys:
        return skipped("no provider has a key: style, subject and objects stay null")
    return well(f"{' and '.join(seen.keys)}: a key is set; whether it is taken was not asked")


def judge_text(seen: UploadsFacts) -> Diagnosis:
    """Whether text in pictures can be read."""
    if seen.no_text:
        return skipped(f"{seen.no_text}: text in pictures stays null")
    if not seen.absent:
        return well(f"tesseract reads {seen.languages}")
    packages = " ".join(f"tesseract-ocr-{one}" for one in seen.absent)
    advice = f"apt-get install {packages}, or take them out of vision.text.languages"
    return warned(f"tesseract has no data for {', '.join(seen.absent)}", advice)
