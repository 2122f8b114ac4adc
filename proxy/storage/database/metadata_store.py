"""Stores what images say about themselves, and searches it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import orjson
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.errors import DatabaseUnavailable
from proxy.domain.media import MAX_MEDIA_ID, readable_text, utc_timestamp
from proxy.runtime.deferred_json import dumps
from proxy.storage.database.metadata_tables import MAX_TAG, media_metadata, media_tags
from proxy.storage.database.tables import (
    media_alt_texts,
    media_choices,
    media_faces,
    media_files,
    raw,
)
from proxy.storage.database.transactions import SqlDatabase

MAX_TAGS = 20
"""Tags of one search."""
_ORPHANS = 1000
"""Rows that one transaction checks."""
_ALIAS = re.compile(r"(ai|style|model)-(.+)", re.DOTALL)
_COLON_FORM = {"ai": "generator", "style": "style", "model": "model"}
_GENERATION_COLUMNS: Mapping[str, str] = {
    "prompt": "prompt",
    "negative_prompt": "negativePrompt",
    "steps": "steps",
    "cfg_scale": "cfgScale",
    "sampler": "sampler",
    "scheduler": "scheduler",
    "seed": "seed",
    "checkpoint_model": "checkpoint",
    "mj_version": "mjVersion",
    "mj_aspect_ratio": "mjAspectRatio",
    "mj_chaos": "mjChaos",
    "mj_quality": "mjQuality",
    "mj_stylize": "mjStylize",
    "mj_job_id": "mjJobId",
    "mj_experimental": "mjExperimental",
    "mj_weirdness": "mjWeirdness",
    "mj_raw": "mjRaw",
}
"""Columns and the members of ``ai_generation`` that they contain."""
_UNKNOWN = "unknown"
_MAX_INTEGER = 2**31 - 1

_stored, _tags, _files = media_metadata.c, media_tags.c, media_files.c

log = structlog.get_logger(__name__)


def canonical_tag(tag: str) -> str:
    """Return the stored form of a tag: ``ai-x`` is an alias of ``generator:x``."""
    stripped = tag.strip()
    if match := _ALIAS.fullmatch(stripped):
        stripped = f"{_COLON_FORM[match[1]]}:{match[2]}"
    return stripped[:MAX_TAG].rstrip()


def engine_text(name: str, version: str) -> str:
    """Return the value of the column ``engine``."""
    return f"{name} {version}"


@dataclass(frozen=True, slots=True)
class StoredMetadata:
    """The row of a medium."""

    media_id: int
    user_id: int
    """Owner of the medium today."""
    columns: Mapping[str, Any]
    """The other columns by name, without ``has_prompt`` and ``raw_metadata``."""
    tags: Sequence[str]
    metadata: Mapping[str, Any] | None = None
    """The whole object; None in the results of a search."""


@dataclass(frozen=True, slots=True)
class MetadataFilter:
    """What a search returns; the conditions are combined with AND."""

    user_id: int | None = None
    """A new owner finds an image after `MetadataStore.delete_orphans`, a former one never."""
    ai_generator: str = ""
    has_prompt: bool | None = None
    mj_version: str = ""
    min_quality: float | None = None
    """Of ``mj_quality``."""
    tags: Sequence[str] = ()
    """At most `MAX_TAGS`; an image with one of them matches. Aliases are accepted."""


@dataclass(frozen=True, slots=True)
class MetadataPage:
    """A page of a search, newest medium first."""

    images: Sequence[StoredMetadata]
    """May be fewer than requested, because media were deleted."""
    next_before: int | None
    """Argument of `MetadataStore.search` for the next page; None on the last one."""


_COLUMNS = tuple(
    one for one in _stored if one.name not in ("media_id", "user_id", "has_prompt", "raw_metadata")
)
_BOOLEANS = tuple(one.name for one in _COLUMNS if isinstance(one.type, sa.Boolean))
_TIMES = tuple(one.name for one in _COLUMNS if isinstance(one.type, sa.TIMESTAMP))
# Copied from the row of the medium in the same statement: if the row was deleted meanwhile, nothing
# is stored. The table may belong to another program that allows longer file names.
_OF_MEDIUM = {
    "media_id": "id",
    "filename": "SUBSTR(original_name, 1, 255)",
    "filesize": "file_size",
    "created_at": "created_at",
    "user_id": "user_id",
}
_OF_FILE = [one.name for one in _stored if one.name not in {*_OF_MEDIUM, "extracted_at"}]
# REPLACE: see `media_repository.replace_into`.
_SAVE = sa.text(
    f"REPLACE INTO {media_metadata.name} ({', '.join([*_OF_MEDIUM, *_OF_FILE])})"  # noqa: S608
    f" SELECT {', '.join([*_OF_MEDIUM.values(), *(f':{name}' for name in _OF_FILE)])}"
    f" FROM {media_files.name} WHERE id = :media_id"
)
_SAVE_TAG = sa.text(f"REPLACE INTO {media_tags.name} (media_id, tag) VALUES (:media_id, :tag)")  # noqa: S608
# Joined, so that a medium that was deleted is not found; its rows are removed later.
_ROWS: sa.Select[Any] = sa.select(
    raw(_stored.media_id), raw(_files.user_id), *map(raw, _COLUMNS)
).join(media_files, _files.id == _stored.media_id)


class MetadataStore:
    """Reads and writes `media_metadata` and `media_tags`; methods raise DatabaseUnavailable."""

    def __init__(self, *, reader: SqlDatabase, writer: SqlDatabase) -> None:
        """Use connections that the caller closes."""
        self._reader = reader
        self._writer = writer

    async def save(self, media_id: int, metadata: Mapping[str, Any], tags: Iterable[str]) -> bool:
        """Store what was extracted from a medium; replace an earlier row and its tags.

        Return False if there is no such medium; then nothing is stored.
        """
        row = {"media_id": media_id, **_row_of(metadata)}
        names = list(dict.fromkeys(name for one in tags if (name := canonical_tag(one))))
        others = sa.delete(media_tags).where(_tags.media_id == media_id, _tags.tag.not_in(names))

        async def work(connection: AsyncConnection) -> bool:
            if not (await connection.execute(_SAVE, row)).rowcount:
                return False
            await connection.execute(others)
            for name in names:
                await connection.execute(_SAVE_TAG, {"media_id": media_id, "tag": name})
            return True

        return await self._writer.run(work)

    async def find(self, media_id: int) -> StoredMetadata | None:
        """Return the row of a medium with the whole object; None if one of them is missing."""
        query = _ROWS.add_columns(raw(_stored.raw_metadata)).where(_stored.media_id == media_id)
        for row in await self._reader.read(query):
            tags = await self._tags_of([media_id])
            return _stored_of(row, tags, orjson.loads(row.raw_metadata))
        return None

    async def find_generation(self, media_id: int) -> Mapping[str, Any] | None:
        """Return ``source``, ``confidence`` and ``evidence`` of a medium; None if it has no row."""
        # The whole object may have 4 MiB.
        parts = [
            sa.type_coerce(
                sa.func.json_extract(raw(_stored.raw_metadata).element, f"$.ai_generation.{name}"),
                sa.types.NullType(),
            ).label(name)
            for name in ("confidence", "evidence")
        ]
        query = sa.select(_stored.ai_generator, *parts).where(_stored.media_id == media_id)
        for row in await self._reader.read(query):
            return {
                "source": row.ai_generator,
                # MariaDB and MySQL return text.
                "confidence": None if row.confidence in (None, "null") else float(row.confidence),
                "evidence": orjson.loads(row.evidence or "[]"),
            }
        return None

    async def search(
        self, wanted: MetadataFilter, *, before: int | None = None, limit: int
    ) -> MetadataPage:
        """Return media with ids below ``before`` that match, newest first."""
        # The ids first, for which indexes suffice. One more shows whether there is another page.
        query = _ids(wanted, MAX_MEDIA_ID if before is None else before, limit + 1)
        ids = [row.media_id for row in await self._reader.read(query)]
        page, more = ids[:limit], len(ids) > limit
        found = _ROWS.where(_stored.media_id.in_(page)).order_by(_stored.media_id.desc())
        if wanted.user_id is not None:
            # The medium may have another owner now. A join in the query of the ids would be slower:
            # 37 ms instead of 0.4 ms for a user with 50,000 of 100,000 images (SQLite), and 330
            # instead of 4 ms for one with 100 if `media_files` has no index (MariaDB).
            found = found.where(_files.user_id == wanted.user_id)
        rows = await self._reader.read(found) if page else []
        tags = await self._tags_of(page) if rows else {}
        return MetadataPage(
            [_stored_of(row, tags) for row in rows], next_before=page[-1] if more else None
        )

    async def _tags_of(self, media_ids: Collection[int]) -> Mapping[int, list[str]]:
        query = sa.select(media_tags).where(_tags.media_id.in_(media_ids)).order_by(_tags.tag)
        found: dict[int, list[str]] = {}
        for row in await self._reader.read(query):
            found.setdefault(row.media_id, []).append(row.tag)
        return found

    async def extracted_by(self, engine: str, media_ids: Collection[int]) -> set[int]:
        """Return those of some media whose row was extracted by this version of an engine."""
        query = sa.select(_stored.media_id).where(
            _stored.media_id.in_(media_ids), _stored.engine == engine
        )
        return {row.media_id for row in await self._reader.read(query)}

    async def delete_orphans(self) -> int:
        """Delete the rows of media that do not exist any more; return their number.

        Copy the owners of the other media to their rows: another program may have changed them.
        """
        deleted, after = 0, 0
        while True:
            query = sa.select(_stored.media_id, raw(_stored.user_id)).where(
                _stored.media_id > after
            )
            page = await self._reader.read(query.order_by(_stored.media_id).limit(_ORPHANS))
            if not page:
                return deleted
            ids, after = [row.media_id for row in page], page[-1].media_id
            existing = sa.select(_files.id, raw(_files.user_id)).where(_files.id.in_(ids))
            owners = {row.id: row.user_id for row in await self._reader.read(existing)}
            if gone := set(ids) - set(owners):
                deleted += await self._writer.run(partial(delete_gone, media_ids=gone))
            moved = [
                row.media_id for row in page if owners.get(row.media_id, row.user_id) != row.user_id
            ]
            if moved:
                await self._copy_owners(moved)

    async def _copy_owners(self, media_ids: Collection[int]) -> None:
        owner = sa.select(_files.user_id).where(_files.id == _stored.media_id).scalar_subquery()
        # A medium may have been deleted meanwhile.
        values = {"user_id": sa.func.coalesce(owner, _stored.user_id)}
        change = sa.update(media_metadata).where(_stored.media_id.in_(media_ids)).values(values)
        try:
            await self._writer.run(lambda connection: connection.execute(change))
        except DatabaseUnavailable as error:
            # Rows must be deleted also if the account may not change any.
            log.warning("metadata_owners_not_copied", media=len(media_ids), cause=error.reason)


async def delete_gone(connection: AsyncConnection, media_ids: Collection[int]) -> int:
    """Delete what is stored of those of some media that were deleted; return their number."""
    exists = sa.select(_files.id).where(_files.id.in_(media_ids))
    gone = set(media_ids) - {row.id for row in await connection.execute(exists)}
    if not gone:
        return 0
    for table in (media_choices, media_alt_texts, media_faces):
        await connection.execute(sa.delete(table).where(table.c.media_id.in_(gone)))
    await connection.execute(sa.delete(media_tags).where(_tags.media_id.in_(gone)))
    deleted = sa.delete(media_metadata).where(_stored.media_id.in_(gone))
    return (await connection.execute(deleted)).rowcount


def _ids(wanted: MetadataFilter, before: int, limit: int) -> sa.Select[Any]:
    """Return the query of the newest ids that match, in descending order."""
    conditions = list(_conditions(wanted))
    # Ordered by the plain id, SQLite would scan all ids and read each row to find the few with a
    # quality. An expression has to be sorted, so SQLite uses the index of the quality instead.
    unordered = wanted.min_quality is not None

    def newest(query: sa.Select[Any], key: sa.ColumnElement[int]) -> sa.Select[Any]:
        order = (key + 0 if unordered else key).desc()
        return query.where(key < before).order_by(order).limit(limit)

    if not wanted.tags:
        return newest(sa.select(_stored.media_id).where(*conditions), _stored.media_id)
    # A query for each tag, so that each is answered in the order of an index and ends early.
    found = [
        newest(_with_tag(tag, conditions), _tags.media_id).subquery()
        for tag in dict.fromkeys(map(canonical_tag, wanted.tags))
    ]
    either = sa.union(*(sa.select(one.c.media_id) for one in found)).subquery()
    return sa.select(either.c.media_id).order_by(either.c.media_id.desc()).limit(limit)


def _conditions(wanted: MetadataFilter) -> Iterator[sa.ColumnElement[bool]]:
    if wanted.user_id is not None:
        yield _stored.user_id == wanted.user_id
    if wanted.ai_generator:
        yield _stored.ai_generator == wanted.ai_generator
    if wanted.has_prompt is not None:
        # As a number: no index is used for "IS true".
        yield _stored.has_prompt == sa.literal(int(wanted.has_prompt), sa.Integer)
    if wanted.mj_version:
        yield _stored.mj_version == wanted.mj_version
    if wanted.min_quality is not None:
        yield _stored.mj_quality >= wanted.min_quality


def _with_tag(tag: str, conditions: Collection[sa.ColumnElement[bool]]) -> sa.Select[Any]:
    query = sa.select(_tags.media_id).where(_tags.tag == tag)
    if not conditions:
        return query
    return query.join(media_metadata, _stored.media_id == _tags.media_id).where(*conditions)


def _stored_of(
    row: sa.Row[Any], tags: Mapping[int, Sequence[str]], metadata: Mapping[str, Any] | None = None
) -> StoredMetadata:
    values = row._asdict()
    columns = {one.name: values[one.name] for one in _COLUMNS}
    for name in _BOOLEANS:
        columns[name] = None if columns[name] is None else bool(columns[name])
    for name in _TIMES:
        columns[name] = _time(columns[name])
    columns["filename"] = readable_text(columns["filename"])
    return StoredMetadata(row.media_id, row.user_id, columns, tags.get(row.media_id, ()), metadata)


def _time(value: object) -> datetime | None:
    return None if value is None else utc_timestamp(value)


def _row_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a metadata object; a value that does not fit its column is None."""
    generation, engine = metadata["ai_generation"], metadata["engine"]
    source = generation["source"]
    parameters = generation["rawParameters"]
    values = {
        "width": metadata["width"],
        "height": metadata["height"],
        "is_ai_generated": source != _UNKNOWN,
        "ai_generator": source,
        **{column: generation[name] for column, name in _GENERATION_COLUMNS.items()},
        "has_prompt": bool(generation["prompt"]),
        "comfy_node_count": parameters["comfyNodeCount"],
        "comfy_workflow_id": parameters["comfyWorkflowId"],
        "engine": engine_text(engine["name"], engine["version"]),
    }
    row = {name: _fitting(_stored[name].type, value) for name, value in values.items()}
    # orjson, which does not escape other scripts: the text would have three times the size.
    return {**row, "raw_metadata": dumps(metadata).decode()}


def _fitting(kind: sa.types.TypeEngine[Any], value: Any) -> Any:
    """Return a value as its column can store it."""
    if isinstance(kind, sa.Boolean):
        return value if isinstance(value, bool) else None
    if isinstance(kind, (sa.String, sa.Text)):
        text = str(value) if isinstance(value, (str, int, float)) else None
        # A longer value is an error for MySQL in strict mode.
        return text if text is None or kind.length is None else text[: kind.length]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    if isinstance(kind, sa.Integer):
        return value if isinstance(value, int) and abs(value) <= _MAX_INTEGER else None
    return value
