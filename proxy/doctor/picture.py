"""One picture that somebody misses: its row, its file, and whether a worker can decode it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from proxy.doctor import CheckBlocked, Diagnosis, failed, skipped, warned, well
from proxy.doctor.originals import hint
from proxy.doctor.workers import Started
from proxy.domain.errors import (
    ConfigurationError,
    RenderTimeout,
    SmartserveError,
    SourceError,
    SourceQuarantined,
    SourceTooLarge,
    UndecodableSource,
    UnsupportedSource,
)
from proxy.domain.media import Media
from proxy.domain.worker_protocol import ProbeJob, ProbeResult
from proxy.settings import Settings
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.originals import SourceStore

_ADVICE: Mapping[type[SmartserveError], str] = {
    UnsupportedSource: "store it as one of limits.source_types (SVG is never served); JPEG, PNG,"
    " WebP, AVIF, GIF and TIFF are",
    UndecodableSource: "the file is damaged: put an intact copy in its place",
    SourceTooLarge: "make the original smaller, or raise the limit: [limits], and"
    " storage.max_original_bytes",
    SourceQuarantined: "it makes its decoder crash: keep the file, report it, and store another",
    RenderTimeout: "it takes longer than workers.deadline_s: make the original smaller",
}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What was seen of a picture, inwards from its row."""

    media: Media
    root: Path
    paths: tuple[str, ...]
    """Where the row says that files are; the first that can be opened counts."""
    opened: str
    """The one that could be opened; empty where none could."""
    refusal: SourceError | None
    """Why the first could not."""
    hint: str
    """What to set so that it is found, where it was found elsewhere."""
    facts: ProbeResult | None
    undecoded: SmartserveError | None
    """Why a worker could not decode it."""


async def look(
    settings: Settings,
    media_id: int,
    rows: SqlMediaRepository | None,
    sources: SourceStore,
    started: Started,
) -> ImageFacts:
    """Look at a row, open its file, and have every pixel of it decoded."""
    if rows is None:
        raise CheckBlocked(skipped("the database cannot be asked for rows"))
    media = await rows.find(media_id)
    if media is None:
        advice = (
            "is that the id, and database.url the right database? 'smartserve import' prints ids,"
            " and 'smartserve adopt' those of a library that was there before"
        )
        raise CheckBlocked(failed(f"no row of media_files has the id {media_id}", advice))
    first: SourceError | None = None
    opened, facts, undecoded = "", None, None
    for path in media.source_paths:
        try:
            async with sources.open(path) as source:
                opened = path
                facts, undecoded = await _decoded(settings, source.descriptor, started)
                break
        except SourceTooLarge as error:
            opened, undecoded = path, error
            break
        except SourceError as error:
            first = first or error
    return ImageFacts(
        media=media,
        root=settings.storage_root,
        paths=media.source_paths,
        opened=opened,
        refusal=first,
        hint="" if opened else await hint(settings.storage_root, media.source_path or ""),
        facts=facts,
        undecoded=undecoded,
    )


async def _decoded(
    settings: Settings, source: int, started: Started
) -> tuple[ProbeResult | None, SmartserveError | None]:
    try:
        async with started() as pool:
            job = ProbeJob(settings.limits.to_limits(), strict=True)
            return await pool.run(job, source), None
    except (ConfigurationError, SmartserveError) as error:
        return None, error


def judge_row(seen: ImageFacts) -> Diagnosis:
    """Whether the row is one that is served."""
    media = seen.media
    told = f"{media.id} of user {media.user_id}, {media.data_type}, {media.status}"
    if media.servable:
        return well(told)
    if media.in_progress:
        advice = "it is on its way, and a 404 with Retry-After until then: 'smartserve status'"
        return warned(f"{told}, no original yet", advice)
    if media.settled:
        return failed(f"{told}, without a path", "bulk_path or library_path has to name its file")
    advice = "only rows that are completed, or on their way, are served: see the column status"
    return failed(told, advice)


def judge_file(seen: ImageFacts) -> Diagnosis:
    """Whether its file can be opened."""
    if not seen.paths:
        return skipped("the row names no file")
    if seen.opened and seen.opened == seen.paths[0]:
        return well(f"{seen.opened} below {seen.root}")
    reason = seen.refusal.detail if seen.refusal else "cannot be opened"
    told = f"{seen.paths[0]} below {seen.root}: {reason}"
    if seen.opened:
        return warned(f"{told}; {seen.opened} is taken", "put the original back at bulk_path")
    where = f"set {seen.hint}, and restart" if seen.hint else "put the file there"
    return failed(told, where)


def judge_decoding(seen: ImageFacts) -> Diagnosis:
    """Whether a worker decodes it to the last pixel."""
    if seen.facts is not None:
        facts = seen.facts
        moves = f", {facts.pages} frames" if facts.pages > 1 else ""
        clear = ", transparent" if facts.has_alpha else ""
        return well(f"{facts.width}x{facts.height} {facts.source_type}{moves}{clear}, whole")
    if seen.undecoded is None:
        return skipped("there is no file to decode")
    advice = next(
        (text for kind, text in _ADVICE.items() if isinstance(seen.undecoded, kind)),
        "see the checks of the worker",
    )
    return failed(seen.undecoded.detail, advice)
