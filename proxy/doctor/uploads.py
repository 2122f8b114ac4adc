"""Checks of uploads: the main API accepts the key, and the queue makes progress."""

from __future__ import annotations

import asyncio

from proxy.doctor.check import Finding, Findings, area, counted, fail, ok, reason_of, skip, warn
from proxy.doctor.installation import Installation
from proxy.domain.errors import MainApiForbidden, SmartserveError
from proxy.domain.upload import QueueReport
from proxy.ingest.main_api import count_pending
from proxy.settings import Settings

_KEY_ADVICE = "set ingest.main_api_key (MAIN_API_KEY) to the main API's MEDIA_API_KEY"


@area("main API", "upload queue")
async def check_uploads(installation: Installation) -> Findings:
    """List the pending uploads at the main API, and read the state of the queue."""
    yield await check_main_api(installation)
    if installation.queue is None:
        yield skip("main.enabled is false and no main API is set: uploads are not processed")
        return
    yield judge_queue(await installation.queue())


async def check_main_api(installation: Installation) -> Finding:
    """List the pending uploads at the main API; none is claimed."""
    url = installation.settings.ingest.main_api_url
    if not url:
        return skip("ingest.main_api_url is not set: this server is its own main API")
    # The client would create a key, which the other main API does not have.
    if not await asyncio.to_thread(_has_key, installation.settings):
        return fail(f"{url}: no key is set", _KEY_ADVICE)
    try:
        async with installation.main_api() as api:
            # Listing does not claim an upload, so no worker is disturbed.
            pending = await count_pending(api)
    except MainApiForbidden as error:
        return fail(f"{url}: {reason_of(error)}", _KEY_ADVICE)
    except SmartserveError as error:
        advice = "is it running, and is ingest.main_api_url correct? Uploads wait there meanwhile"
        return fail(f"{url}: {reason_of(error)}", advice)
    return ok(f"{url} accepts the key; {counted(pending, 'upload')} pending")


def _has_key(settings: Settings) -> bool:
    """Return whether a key exists; opening the client without one would create it."""
    ingest, main = settings.ingest, settings.main
    given = ingest.main_api_key, ingest.main_api_key_file, main.key, main.key_file
    return any(given) or (settings.key_directory / "media_api").is_file()


def judge_queue(report: QueueReport) -> Finding:
    """Return the finding for the state of the queue, the most urgent problem first."""
    states = ", ".join(f"{count} {state}" for state, count in report.states.items() if count)
    text = states or "no uploads yet"
    # Unfinished for more than an hour, which no step takes.
    if report.stuck:
        advice = (
            "'smartserve status' shows the step and the reason; is a worker running"
            " (ingest.embedded, smartserve ingest)?"
        )
        stuck = f"{counted(report.stuck, 'upload')} unfinished for more than an hour"
        return fail(f"{stuck}; {text}", advice)
    # An expired lease means that its worker ended without a word; another takes over.
    if report.run_out:
        advice = "workers were killed, usually out of memory: see dmesg and 'smartserve status'"
        return warn(f"{counted(report.run_out, 'lease')} expired; {text}", advice)
    if report.failed_for_good:
        advice = "'smartserve status' lists the reasons; most are faults of the uploaded files"
        return warn(f"{counted(report.failed_for_good, 'upload')} failed; {text}", advice)
    return ok(text)
