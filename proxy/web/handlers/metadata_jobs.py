"""``/api/extract/jobs``: extractions in the background; and the statistics of the cache."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from aiohttp import web
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from proxy.domain.errors import BadParameter, MediaNotFound, PendingNotFound
from proxy.domain.media import MAX_MEDIA_ID, Media
from proxy.domain.request import Outcome
from proxy.ingest.metadata_jobs import JobRequest, MetadataJobs
from proxy.metadata.cache import SqlExtractionCache
from proxy.metadata.extraction import PROGRESS, Tier
from proxy.metadata.tiers import check_allowed, lowered
from proxy.storage.database import MediaRepository
from proxy.storage.database.metadata_jobs import JobStatus, StoredJob
from proxy.web.auth import KeyGuard
from proxy.web.headers import NO_STORE, PRIVATE
from proxy.web.json_response import json_route
from proxy.web.metadata_input import Caller, CallerGuard, FormReceiver, query_values
from proxy.web.request_input import read_json, whole_number
from proxy.web.responses import BufferedResponse, whole

JOBS_PATH = "/api/extract/jobs"
MAX_JOB_IDS = 50
JOB_ID_PATTERN = "[0-9A-Za-z_-]{1,64}"
"""Accepts also ids of other queues: such a job has the status "unknown" and is no error."""

_IDS = re.compile(rf"{JOB_ID_PATTERN}(?:,{JOB_ID_PATTERN})*", re.ASCII)
_MAX_JSON_BYTES = 64 * 1024
_MAX_RESULTS_BYTES = 32 * 1024 * 1024
"""Of all results in one answer, which are in memory until they are sent."""
_OPTIONS = ("advanced", "tier")
_OUTCOME = Outcome("metadata_jobs")
_STAGES = {percent: stage for stage, percent in PROGRESS.items()}


@dataclass(frozen=True, slots=True)
class JobOptions:
    """What is extracted, and what of it the result has."""

    advanced: Annotated[bool, Field(description="Facts for examiners, too.")] = False
    tier: Annotated[str, Field(description="Not above that of the caller.")] | None = None


@dataclass(frozen=True, slots=True)
class NewMetadataJob:
    """A job for a stored image."""

    media_id: Annotated[int, Field(ge=0, le=2**53 - 1)]
    options: JobOptions | SkipJsonSchema[None] = None
    callback: Annotated[str, Field(max_length=2000)] | None = None


@dataclass(frozen=True, slots=True)
class AcceptedJob:
    """The job is in the queue."""

    id: str


@dataclass(frozen=True, slots=True)
class ShownJob:
    """A job. Its result is the answer of `POST /api/extract`."""

    id: str
    status: JobStatus
    progress: Annotated[int, Field(ge=0, le=100, description="Per cent.")]
    stage: Annotated[str | None, Field(description="Last stage that was reached.")]
    result: dict[str, Any] | None
    result_omitted: Annotated[
        bool, Field(description="The results of the list are too large: request this job alone.")
    ]
    error: Annotated[str | None, Field(description="Of the last attempt that failed.")]
    code: str | None
    attempts: int


@dataclass(frozen=True, slots=True)
class ShownJobs:
    """The requested jobs, in their order."""

    jobs: list[ShownJob]


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Figures of the cache of extractions; hits and misses of this server since its start."""

    totalCached: int  # noqa: N815 - the requirements document's names
    cacheHits: int  # noqa: N815
    cacheMisses: int  # noqa: N815


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataJobsHandler:
    """Handles jobs. A user has those that the user has added, MEDIA_API_KEY all."""

    callers: CallerGuard
    forms: FormReceiver
    jobs: MetadataJobs
    media: MediaRepository
    stall_s: float
    """A JSON body must arrive completely within this time."""

    @json_route("metadata_jobs", coded=True)
    async def add_job(self, request: web.Request) -> BufferedResponse:
        """Add a job for a file, or for a stored image."""
        caller = self.callers.caller_of(request)
        draft = JobRequest(_owner(caller), "", caller.tier, limited=not caller.is_admin)
        # Before the body, which may be a gigabyte.
        await self.jobs.check_room(draft)
        if request.content_type == "application/json":
            job_id = await self._add_original(request, caller)
        else:
            job_id = await self._add_upload(request, caller)
        headers = [
            ("Content-Type", "application/json"),
            ("Location", f"{JOBS_PATH}/{job_id}"),
            ("Cache-Control", NO_STORE),
            *PRIVATE,
        ]
        body = orjson.dumps(AcceptedJob(job_id))
        return whole(HTTPStatus.ACCEPTED, headers, body, outcome=_OUTCOME)

    async def _add_upload(self, request: web.Request, caller: Caller) -> str:
        receiving = self.forms.receive(request, caller, field="file", texts=("options", "callback"))
        async with receiving as form:
            one = form.only
            options = _parse_options(_json(form.texts.get("options")))
            callback = self._callback(form.texts.get("callback"))
            wanted = replace(
                self._request(
                    caller,
                    options,
                    callback,
                    tier=form.tier,
                    name=one.name,
                    size=one.file.byte_size,
                ),
                media_type=one.media_type,
            )
            await self.forms.extractor.charge(caller.user_id, "job")
            return await self.jobs.add(wanted, one.file.descriptor, one.file.byte_size)

    async def _add_original(self, request: web.Request, caller: Caller) -> str:
        body = await read_json(request, max_bytes=_MAX_JSON_BYTES, stall_s=self.stall_s)
        media = await self._media(caller, body.get("media_id"))
        options = _parse_options(body.get("options"))
        callback = self._callback(body.get("callback"))
        size = media.facts.byte_size if media.facts else 0
        name = media.original_name or (media.source_path or "").rpartition("/")[2]
        wanted = self._request(caller, options, callback, tier=caller.tier, name=name, size=size)
        await self.forms.extractor.charge(caller.user_id, "job")
        return await self.jobs.add_original(wanted, media)

    def _request(
        self,
        caller: Caller,
        options: JobOptions,
        callback: str | None,
        *,
        tier: Tier,
        name: str,
        size: int,
    ) -> JobRequest:
        """Return what is wanted; raises TierInsufficient."""
        tier = lowered(tier, options.tier)
        limits = self.forms.extractor.limits
        check_allowed(tier, limits, byte_size=size, advanced=options.advanced)
        return JobRequest(
            _owner(caller),
            name,
            tier,
            advanced=options.advanced,
            callback=callback,
            limited=not caller.is_admin,
        )

    def _callback(self, value: object) -> str | None:
        if value is None or value == "":
            return None
        # A value that is not text is rejected like an invalid address.
        return self.jobs.callbacks.check(value if isinstance(value, str) else "")

    async def _media(self, caller: Caller, value: object) -> Media:
        """Return the image of the caller; raises MediaNotFound."""
        is_text = isinstance(value, str) and value.isascii() and value.isdigit()
        media_id = int(str(value)[:20]) if is_text else whole_number(value)
        if media_id is None or media_id < 0:
            raise BadParameter("media_id", "the id of a stored image")
        media = await self.media.find(media_id) if media_id <= MAX_MEDIA_ID else None
        own = media is not None and (caller.is_admin or media.user_id == caller.user_id)
        if media is None or not own or media.source_path is None:
            # The same error for images of others, so that nobody can find out which ids exist.
            raise MediaNotFound(f"You have no stored image with id {media_id}.")
        return media

    @json_route("metadata_jobs", coded=True)
    async def list_jobs(self, request: web.Request) -> Mapping[str, Any]:
        """Return the status of jobs, and the results of those that are completed."""
        caller = self.callers.caller_of(request)
        text = query_values(request, ("ids",)).get("ids", "")
        # Each once; more than that is refused before anything is read.
        ids = list(dict.fromkeys(text.split(",")))
        if not _IDS.fullmatch(text) or len(ids) > MAX_JOB_IDS:
            raise BadParameter("ids", f"1 to {MAX_JOB_IDS} ids of jobs, separated by commas")
        found = {one.id: one for one in await self._own(caller, ids)}
        wanted = [found[one] for one in ids if one in found]
        results = await self.jobs.table.results(_affordable(wanted))
        return {"jobs": [_shown(one, found.get(one), results) for one in ids]}

    @json_route("metadata_jobs", coded=True)
    async def find_job(self, request: web.Request) -> Mapping[str, Any]:
        """Return the status of a job, and its result if it is completed."""
        job = await self._one(request)
        return _shown(job.id, job, await self.jobs.table.results([job.id]))

    @json_route("metadata_jobs", coded=True)
    async def delete_job(self, request: web.Request) -> BufferedResponse:
        """Delete a job with its file and its result; one that runs is ended."""
        await self.jobs.delete(await self._one(request))
        headers = [("Cache-Control", NO_STORE), *PRIVATE]
        return whole(HTTPStatus.NO_CONTENT, headers, b"", outcome=_OUTCOME)

    async def _one(self, request: web.Request) -> StoredJob:
        caller = self.callers.caller_of(request)
        for job in await self._own(caller, [request.match_info["id"]]):
            return job
        raise PendingNotFound("You have no job with this id. Results are kept for a day.")

    async def _own(self, caller: Caller, ids: Sequence[str]) -> list[StoredJob]:
        found = (await self.jobs.table.find(ids)).values()
        return [one for one in found if caller.is_admin or one.owner == _owner(caller)]


@dataclass(frozen=True, slots=True)
class MetadataCacheHandler:
    """Handles the statistics of the cache, with the admin key."""

    guard: KeyGuard
    cache: SqlExtractionCache

    @json_route("metadata_cache", coded=True)
    async def cache_statistics(self, request: web.Request) -> CacheStatistics:
        """Return how many extractions are kept, and how often one was found."""
        self.guard.check(request)
        counts = self.cache.statistics()
        total = await self.cache.count()
        return CacheStatistics(total, int(counts["hits"]), int(counts["misses"]))


def _owner(caller: Caller) -> str:
    return "key" if caller.user_id is None else f"user:{caller.user_id}"


def _json(text: str | None) -> object:
    try:
        return orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        raise BadParameter("options", "a JSON object") from None


def _parse_options(value: object) -> JobOptions:
    if value is None:
        return JobOptions()
    known = isinstance(value, dict) and value.keys() <= set(_OPTIONS)
    values = value if isinstance(value, dict) else {}
    advanced, tier = values.get("advanced", False), values.get("tier")
    if not known or not isinstance(advanced, bool) or not isinstance(tier, str | None):
        raise BadParameter("options", 'an object with "advanced" (true, false) and "tier" (text)')
    return JobOptions(advanced=advanced, tier=tier)


def _affordable(jobs: Sequence[StoredJob]) -> list[str]:
    """Return the jobs whose results fit into one answer; the first one always does."""
    chosen: list[str] = []
    left = _MAX_RESULTS_BYTES
    for job in jobs:
        if job.result_bytes <= left or not chosen:
            chosen.append(job.id)
            left -= job.result_bytes
    return chosen


def _shown(job_id: str, job: StoredJob | None, results: Mapping[str, str]) -> dict[str, Any]:
    """Return the members of `ShownJob`."""
    if job is None:
        job = StoredJob(job_id, "", JobStatus.UNKNOWN, 0, 0, None, None, 0, None, "")
    text = results.get(job_id)
    return {
        "id": job_id,
        "status": job.status,
        "progress": job.progress,
        "stage": _STAGES.get(job.progress),
        # As it was stored: parsing several megabytes would hold up all other requests.
        "result": None if text is None else orjson.Fragment(text),
        "result_omitted": text is None and job.result_bytes > 0,
        "error": job.error,
        "code": job.code,
        "attempts": job.attempts,
    }
