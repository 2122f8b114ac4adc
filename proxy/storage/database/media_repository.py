"""Queries of the media database in SQLAlchemy Core, with the same SQL for all servers."""

from __future__ import annotations

import json
import time
from collections import namedtuple
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, fields, replace
from functools import partial
from threading import Lock
from typing import Any

import orjson
import sqlalchemy as sa
import structlog
from cachetools import LRUCache
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from proxy.domain.analysis import ANALYSIS_VERSION, Analysis
from proxy.domain.errors import DatabaseUnavailable, MediaRowInvalid
from proxy.domain.formats import SOURCE_MEDIA_TYPES
from proxy.domain.media import (
    FACE_MODEL,
    NO_CHOICES,
    DataType,
    Face,
    Focus,
    Media,
    MediaChoices,
    MediaFacts,
    MediaStatus,
    readable_text,
    stored_choices,
    stored_faces,
    stored_facts,
    stored_text,
    utc_timestamp,
)
from proxy.domain.perceptual_hash import PerceptualHash
from proxy.domain.variant import PurgeEntry
from proxy.settings import DatabaseSettings
from proxy.storage.database import MediaPaths, NewMedia
from proxy.storage.database.engine import sqlite_file
from proxy.storage.database.purge_table import announcement
from proxy.storage.database.tables import (
    CLOCK,
    media_ai_analysis,
    media_analysis_details,
    media_choices,
    media_faces,
    media_facts,
    media_fallbacks,
    media_files,
    purges,
    raw,
)
from proxy.storage.database.transactions import SqlDatabase, ThreadReader

_files, _facts, _fallbacks = media_files.c, media_facts.c, media_fallbacks.c
_choices, _faces = media_choices.c, media_faces.c
_analyses, _details = media_ai_analysis.c, media_analysis_details.c
# The number of the latest logos that are searched for brand colours.
_LOGOS = 5
# The fields that are columns of the same name in each table that has them.
_MEDIA_FIELDS = tuple(one.name for one in fields(Media) if one.name in _files)
_FACT_FIELDS = tuple(one.name for one in fields(MediaFacts) if one.name in _fallbacks)
_FACT_COLUMNS = (*_FACT_FIELDS, "focus_x", "focus_y")
_ANALYSIS_COLUMNS = tuple(one for one in _analyses if not isinstance(one.type, sa.TIMESTAMP))
CHOICES = ("updated_at", "focus_x", "focus_y", "crops", "background", "visibility")
"""Columns of ``media_choices`` that are read with each row."""
_MAX_REPORTED = 10_000

log = structlog.get_logger(__name__)

_has_bulk = sa.func.nullif(_files.bulk_path, "").is_not(None)
_has_library = sa.func.nullif(_files.library_path, "").is_not(None)
# `Media.servable` in SQL.
servable = sa.or_(
    sa.and_(_files.status == MediaStatus.COMPLETED, sa.or_(_has_bulk, _has_library)),
    sa.and_(_files.status.in_((MediaStatus.DOWNLOADING, MediaStatus.PROCESSING)), _has_bulk),
)


def _page(query: sa.Select[Any]) -> sa.Select[Any]:
    rows = query.where(_files.id > sa.bindparam("after")).order_by(_files.id)
    return rows.limit(sa.bindparam("limit"))


def replace_into(table: sa.Table, *omitted: str) -> sa.TextClause:
    """Return the statement that inserts a row, or replaces the one with the same primary key."""
    # REPLACE is one statement that SQLite, MariaDB and MySQL all accept. DELETE and INSERT would
    # deadlock in InnoDB: two deletes of a missing row lock the same gap, and then neither
    # transaction may insert into it.
    names = [column.name for column in table.c if column.name not in omitted]
    values = ", ".join(f":{name}" for name in names)
    return sa.text(f"REPLACE INTO {table.name} ({', '.join(names)}) VALUES ({values})")  # noqa: S608


# Not a parameter: the look-ups of SQLite have the id as their only one.
_MODEL = sa.literal_column(f"'{FACE_MODEL}'", sa.String)

_SELECT: sa.Select[Any] = sa.select(
    *(raw(_files[name]) for name in _MEDIA_FIELDS),
    *(raw(_facts[name]) for name in (*_FACT_COLUMNS, "row_version")),
    *(
        sa.type_coerce(_choices[name], sa.types.NullType()).label(f"choice_{name}")
        for name in CHOICES
    ),
    # Faces of another content or model are left out here, without a comparison of two columns,
    # which may have different collations.
    raw(_faces.faces),
    sa.type_coerce(_faces.content_hash, sa.types.NullType()).label("faces_of"),
    # Few media have fallbacks. For all others this flag saves the second query.
    sa.exists().where(_fallbacks.media_id == _files.id).label("has_fallbacks"),
).select_from(
    media_files.outerjoin(media_facts, _facts.media_id == _files.id)
    .outerjoin(media_choices, _choices.media_id == _files.id)
    .outerjoin(media_faces, sa.and_(_faces.media_id == _files.id, _faces.model == _MODEL))
)

_BY_ID = _SELECT.where(_files.id == sa.bindparam("media_id"))
_BY_IDS = _SELECT.where(_files.id.in_(sa.bindparam("media_ids", expanding=True)))
_BY_HASH = _SELECT.where(_facts.content_hash == sa.bindparam("content_hash"), servable).order_by(
    _files.id
)
_IDS = _page(sa.select(_files.id).where(servable))
_IDS_OF_USER = _page(sa.select(_files.id).where(_files.user_id == sa.bindparam("user_id")))
_PATHS = _page(sa.select(_files.id, raw(_files.bulk_path), raw(_files.library_path)))
_NEWEST = (
    _SELECT.where(_files.id < sa.bindparam("before"), servable)
    .order_by(_files.id.desc())
    .limit(sa.bindparam("limit"))
)
_FALLBACKS = sa.select(*(raw(_fallbacks[name]) for name in _FACT_COLUMNS)).where(
    _fallbacks.media_id == sa.bindparam("media_id")
)
_FALLBACKS_OF = sa.select(
    _fallbacks.media_id, *(raw(_fallbacks[name]) for name in _FACT_COLUMNS)
).where(_fallbacks.media_id.in_(sa.bindparam("media_ids", expanding=True)))
# The look-up of a row as the driver of SQLite takes it, with the columns of `_SELECT`.
_SQLITE = sqlite.dialect(paramstyle="qmark")
_PLAIN_BY_ID, _PLAIN_FALLBACKS = (str(one.compile(dialect=_SQLITE)) for one in (_BY_ID, _FALLBACKS))
_PlainRow: Any = namedtuple("_PlainRow", list(_SELECT.selected_columns.keys()))  # type: ignore[misc]  # noqa: PYI024
_PlainFacts: Any = namedtuple("_PlainFacts", list(_FALLBACKS.selected_columns.keys()))  # type: ignore[misc]  # noqa: PYI024
_SAVE_FACTS = replace_into(media_facts, "learned_at")
# With a lock: a purge that is being recorded is waited for, and a later one deletes the facts.
_PURGED = (
    sa.select(purges.c.id)
    .where(
        purges.c.purged_at >= sa.bindparam("since"),
        purges.c.media_id == sa.bindparam("media_id"),
        purges.c.shapes.is_(None),
    )
    .limit(1)
    .with_for_update(read=True)
)
_SAVE_FALLBACK = replace_into(media_fallbacks, "adopted_at")
_SAVE_FACES = replace_into(media_faces, "detected_at")


class SqlMediaRepository(SqlDatabase):
    """The rows of the database; implements `proxy.storage.database.MediaRepository`.

    Each call ends within ``query_timeout_s``.
    """

    def __init__(self, url: str, settings: DatabaseSettings, *, faces: bool = True) -> None:
        """Connect on the first query; raises ConfigurationError if the URL is not supported.

        Without ``faces``, those that are stored are not returned.
        """
        self._with_faces = faces
        # Transactions are rare: they get a quarter of the connections.
        size = max(1, settings.pool_size // 4)
        super().__init__(url, settings.model_copy(update={"pool_size": size}))
        reading = settings.model_copy(update={"pool_size": settings.pool_size - size})
        file = sqlite_file(url)
        self._reader = (
            SqlDatabase(url, reading, isolation="AUTOCOMMIT")
            if file is None
            else ThreadReader(file, reading)
        )
        self.reads_in_threads = isinstance(self._reader, ThreadReader)
        """Whether `find_blocking` can be called."""
        self._counting = Lock()
        self._reported: LRUCache[tuple[int, str, str], bool] = LRUCache(_MAX_REPORTED)
        self._statistics = {"queries": 0.0, "errors": 0.0, "seconds": 0.0}

    async def aclose(self) -> None:
        """Close the pooled connections."""
        await super().aclose()
        await self._reader.aclose()

    async def read(
        self, query: sa.Executable, values: Mapping[str, Any] | None = None
    ) -> Sequence[sa.Row[Any]]:
        """Return all rows of another module's query, which is not counted."""
        return await self._reader.read(query, values or {})

    async def find(self, media_id: int) -> Media | None:
        """Return the row with its facts and fallbacks, or None.

        Raises:
            MediaRowInvalid: a path in it is not valid.
        """
        if isinstance(self._reader, ThreadReader):
            with self._counted():
                of_id = await self._reader.run(partial(self._find_blocking, [media_id]))
            return _all_valid(of_id).get(media_id)
        rows = await self._read(_BY_ID, media_id=media_id)
        if not rows:
            return None
        media = self._media_of(rows[0])
        if not rows[0].has_fallbacks:
            return media
        return self._with_fallbacks(media, await self._read(_FALLBACKS, media_id=media_id))

    async def find_many(self, media_ids: Collection[int]) -> Mapping[int, Media]:
        """Return the rows with these ids, by one query and one for all fallbacks.

        Raises:
            MediaRowInvalid: one of them is not valid; `find` returns the others.
        """
        if isinstance(self._reader, ThreadReader):
            with self._counted():
                of_ids = await self._reader.run(partial(self._find_blocking, media_ids))
            return _all_valid(of_ids)
        rows = await self._read(_BY_IDS, media_ids=list(media_ids))
        found = {row.id: self._media_of(row) for row in rows}
        if having := [row.id for row in rows if row.has_fallbacks]:
            for row in await self._read(_FALLBACKS_OF, media_ids=having):
                if (facts := _facts_of(row, row.media_id, self._report)) is not None:
                    media = found[row.media_id]
                    found[media.id] = replace(media, fallbacks=(*media.fallbacks, facts))
        return found

    def find_blocking(self, media_ids: Iterable[int]) -> Mapping[int, Media | MediaRowInvalid]:
        """Return rows of an SQLite file by id, as `find` does, in the calling thread.

        Raises:
            DatabaseUnavailable: a query failed.
        """
        with self._counted():
            return self._find_blocking(media_ids)

    def _find_blocking(self, media_ids: Iterable[int]) -> Mapping[int, Media | MediaRowInvalid]:
        if not isinstance(self._reader, ThreadReader):
            raise TypeError
        rows: list[Any] = []
        fallbacks: dict[int, list[Any]] = {}
        with self._reader.plain_connection() as connection:
            for media_id in media_ids:
                row = connection.execute(_PLAIN_BY_ID, (media_id,)).fetchone()
                if row is None:
                    continue
                rows.append(_PlainRow._make(row))
                if rows[-1].has_fallbacks:
                    found = connection.execute(_PLAIN_FALLBACKS, (media_id,))
                    fallbacks[media_id] = list(map(_PlainFacts._make, found))
        return {row.id: self._whole(row, fallbacks.get(row.id, ())) for row in rows}

    def _whole(self, row: Any, fallbacks: Iterable[Any]) -> Media | MediaRowInvalid:
        try:
            media = self._media_of(row)
        except MediaRowInvalid as error:
            return error
        return self._with_fallbacks(media, fallbacks)

    def _with_fallbacks(self, media: Media, rows: Iterable[Any]) -> Media:
        if not rows:
            return media
        valid = (_facts_of(row, media.id, self._report) for row in rows)
        return replace(media, fallbacks=tuple(facts for facts in valid if facts is not None))

    async def now(self) -> float:
        """Return the time on the database's clock, in seconds since 1970."""
        return float((await self._read(CLOCK))[0][0])

    async def save_facts(self, media_id: int, facts: MediaFacts, *, since: float) -> bool:
        """Store the facts of a source unless it was purged; see `MediaRepository`."""

        async def work(connection: AsyncConnection) -> bool:
            if (await connection.execute(_PURGED, {"media_id": media_id, "since": since})).first():
                return False
            await connection.execute(_SAVE_FACTS, _fact_values(media_id, facts))
            return True

        with self._counted():
            return await self.run(work)

    async def save_faces(self, media_id: int, content_hash: str, faces: Sequence[Face]) -> None:
        """Store the faces of a source with this content, and replace others."""
        values = {
            "media_id": media_id,
            "content_hash": content_hash,
            "model": FACE_MODEL,
            "faces": json.dumps([astuple(face) for face in faces]),
        }
        with self._counted():
            async with self.transaction() as connection:
                await connection.execute(_SAVE_FACES, values)

    async def add_fallback(self, media_id: int, facts: MediaFacts) -> None:
        """Store a file that replaces a missing source; equal content is stored once."""
        # The row itself does not change, so running servers would not notice.
        changed = announcement([PurgeEntry(media_id, frozenset())])
        with self._counted():
            async with self.transaction() as connection:
                await connection.execute(_SAVE_FALLBACK, _fact_values(media_id, facts))
                await connection.execute(changed)

    async def insert(self, new: NewMedia, facts: MediaFacts) -> int:
        """Insert a row and its facts in one transaction; return the new id."""
        with self._counted():
            async with self.transaction() as connection:
                values = {
                    **asdict(new),
                    "mime_type": SOURCE_MEDIA_TYPES[facts.source_type],
                    "file_size": facts.byte_size,
                }
                result = await connection.execute(sa.insert(media_files), values)
                media_id: int = result.lastrowid
                await bind_facts(connection, media_id, facts)
        return media_id

    async def ping(self) -> None:
        """Run the query of `find`, so that missing privileges on either table are detected."""
        await self._read(_BY_ID, media_id=0)

    async def find_by_hash(self, content_hash: str) -> Media | None:
        """Return the oldest servable row whose source has this content hash, or None."""
        rows = await self._read(_BY_HASH, content_hash=content_hash)
        # Whether the facts belong to the current file is not decided in SQL: the two tables may
        # have different collations, and MySQL then refuses to compare their paths.
        return next((media for media in self._valid(rows) if media.known_facts), None)

    async def ids(self, *, after: int = 0, limit: int = 1000) -> Sequence[int]:
        """Return a page of ids of servable rows above ``after``, ascending."""
        return [row.id for row in await self._read(_IDS, after=after, limit=limit)]

    async def ids_of_user(
        self, user_id: int, *, after: int = 0, limit: int = 1000
    ) -> Sequence[int]:
        """Return a page of ids of a user's rows of any status above ``after``, ascending."""
        rows = await self._read(_IDS_OF_USER, user_id=user_id, after=after, limit=limit)
        return [row.id for row in rows]

    async def newest(self, *, before: int, limit: int) -> Sequence[Media]:
        """Return servable rows with ids below ``before``, descending, with their facts."""
        found: list[Media] = []
        while len(found) < limit:
            wanted = limit - len(found)
            rows = await self._read(_NEWEST, before=before, limit=wanted)
            found += self._valid(rows)
            if len(rows) < wanted:
                break
            # Rows that are not valid are left out; a short page would look like the last one.
            before = rows[-1].id
        return found

    async def paths(self, *, after: int = 0, limit: int = 1000) -> Sequence[MediaPaths]:
        """Return a page of the paths of rows of any status above ``after``, ascending by id."""
        rows = await self._read(_PATHS, after=after, limit=limit)
        return [
            MediaPaths(row.id, *(self._path(row, name) for name in ("bulk_path", "library_path")))
            for row in rows
        ]

    def statistics(self) -> Mapping[str, float]:
        """Return the number of queries and transactions, of failed ones, and their duration."""
        return dict(self._statistics)

    def _path(self, row: sa.Row[Any], name: str) -> str | None:
        try:
            return stored_text(getattr(row, name))
        except ValueError:
            self._report(row.id, "media_files", name)
            return None

    def _media_of(self, row: sa.Row[Any]) -> Media:
        return _media_of(row, self._report, faces=self._with_faces)

    def _valid(self, rows: Iterable[sa.Row[Any]]) -> Iterator[Media]:
        for row in rows:
            with suppress(MediaRowInvalid):
                yield self._media_of(row)

    def _report(self, media_id: int, table: str, column: str) -> None:
        """Log a value that is not valid, once for each row and column."""
        # Threads report, too.
        with self._counting:
            if self._reported.setdefault((media_id, table, column), False):
                return
            self._reported[media_id, table, column] = True
        advice = "correct the value in the database; other rows are not affected"
        log.warning(
            "database_value_invalid", media_id=media_id, table=table, column=column, advice=advice
        )

    async def _read(self, query: sa.Executable, **values: Any) -> Sequence[sa.Row[Any]]:
        with self._counted():
            return await self._reader.read(query, values)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        started = time.monotonic()
        self._count("queries", 1)
        try:
            yield
        except DatabaseUnavailable:
            self._count("errors", 1)
            raise
        finally:
            self._count("seconds", time.monotonic() - started)

    def _count(self, name: str, value: float) -> None:
        # Threads count, too.
        with self._counting:
            self._statistics[name] += value


def _all_valid(rows: Mapping[int, Media | MediaRowInvalid]) -> Mapping[int, Media]:
    """Return the rows; raise the error of the first that is not valid."""
    valid: dict[int, Media] = {}
    for media_id, media in rows.items():
        if isinstance(media, MediaRowInvalid):
            raise media
        valid[media_id] = media
    return valid


# A table that another program created may have several rows for a medium: the latest is first.
_ANALYSES = (
    sa.select(*map(raw, _ANALYSIS_COLUMNS), raw(_details.details))
    .outerjoin(media_analysis_details, _details.media_id == _analyses.media_id)
    .order_by(_analyses.id.desc())
)


ReadAnswers = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Returns values from the answers of providers in the columns of ``media_ai_analysis``."""


# Only three values are read: the details of an image have some kilobytes. A row that is not JSON
# has none.
_JSON_DETAILS = sa.case((sa.func.json_valid(_details.details) == 1, raw(_details.details).element))
_HASHES = (
    sa.select(
        _files.id,
        *(
            sa.type_coerce(
                sa.func.json_extract(_JSON_DETAILS, f"$.{name}"), sa.types.NullType()
            ).label(name)
            for name in ("phash", "phash_mask", "version")
        ),
    )
    .outerjoin(media_analysis_details, _details.media_id == _files.id)
    .where(_files.id < sa.bindparam("before"), servable)
    .order_by(_files.id.desc())
    .limit(sa.bindparam("limit"))
)


def _hash_of(row: sa.Row[Any]) -> PerceptualHash | None:
    # MariaDB and MySQL return JSON: texts in quotes, and all values as text.
    own = {
        name: one.strip('"') if isinstance(one, str) else one for name, one in row._asdict().items()
    }
    if str(own["version"]) != str(ANALYSIS_VERSION):
        return None
    return PerceptualHash.parse(own["phash"], own["phash_mask"])


class AnalysisRepository:
    """Reads analyses; every method raises DatabaseUnavailable."""

    def __init__(self, database: SqlDatabase, read_answers: ReadAnswers = lambda _: {}) -> None:
        """Use a database that the caller closes.

        ``read_answers`` supplies values that an analysis lacks, because an older version of this
        program or another program stored it.
        """
        self._database = database
        self._read_answers = read_answers

    def _analysis_of(self, row: sa.Row[Any]) -> Analysis:
        found = row._asdict()
        own = _json_object(found.pop("details"))
        # A value of another type than its column is left out, as if it were NULL.
        columns = {name: _typed(name, one) for name, one in found.items()}
        if "safe_search" not in own:
            own = {**self._read_answers(columns), **own}
        return Analysis(columns, own)

    async def find(self, media_id: int) -> Analysis | None:
        """Return the latest analysis of a medium, or None."""
        query = _ANALYSES.where(_analyses.media_id == media_id).limit(1)
        return next(map(self._analysis_of, await self._database.read(query)), None)

    async def find_many(self, media_ids: Collection[int]) -> Mapping[int, Analysis]:
        """Return the latest analyses of media by id; media without one are left out."""
        query = _ANALYSES.where(_analyses.media_id.in_(media_ids))
        rows = await self._database.read(query)
        # The latest is first, so it is written last.
        return {row.media_id: self._analysis_of(row) for row in reversed(rows)}

    async def thumbhashes(self, media_ids: Collection[int]) -> Mapping[int, str]:
        """Return the stored ThumbHashes of these media; media without one are left out."""
        query = sa.select(_details.media_id, raw(_details.details))
        rows = await self._database.read(query.where(_details.media_id.in_(media_ids)))
        hashes = {row.media_id: _json_object(row.details).get("thumbhash") for row in rows}
        return {media_id: one for media_id, one in hashes.items() if one and isinstance(one, str)}

    async def hashes(
        self, *, before: int, limit: int
    ) -> Sequence[tuple[int, PerceptualHash | None]]:
        """Return a page of ids below ``before``, descending, with the hashes of their analyses.

        None: the analysis is of another version or of another program, or there is none.
        """
        rows = await self._database.read(_HASHES, {"before": before, "limit": limit})
        return [(row.id, _hash_of(row)) for row in rows]

    async def find_brand(self, user_id: int) -> Mapping[str, Any] | None:
        """Return the brand colours and the id of a user's latest logo that has any, or None."""
        query = (
            sa.select(_files.id, raw(_details.details))
            .join(media_analysis_details, _details.media_id == _files.id)
            .where(_files.user_id == user_id, _files.data_type == DataType.LOGO)
            .order_by(_files.id.desc())
            .limit(_LOGOS)
        )
        for row in await self._database.read(query):
            # A logo that is not analysed yet, or has no distinct colours, is skipped.
            if colours := _json_object(row.details).get("brand_colors"):
                return {"brand_colors": colours, "logo_media_id": row.id}
        return None


def _json_object(value: object) -> dict[str, Any]:
    """Return a stored JSON object; an empty one for NULL and for anything else."""
    found = _json(value)
    return found if isinstance(found, dict) else {}


def _json(value: object) -> Any:
    try:
        # Not the module `json`, which reads values that no response can have: half a character, and
        # numbers of more than 64 bits.
        return orjson.loads(value) if isinstance(value, (str, bytes)) else None
    except ValueError:
        return None


def _typed(name: str, value: object) -> Any:
    """Return a value of ``media_ai_analysis``, or None if it has not the type of its column."""
    kind = media_ai_analysis.c[name].type
    if isinstance(kind, sa.JSON):
        found = _json(value)
        # Lists, of objects or of words; the raw answers of providers may be anything.
        return found if name.startswith("raw_") or isinstance(found, list) else None
    if isinstance(kind, (sa.String, sa.Text)):
        return readable_text(value)
    return value if isinstance(value, (int, float)) else None


async def bind_facts(
    connection: AsyncConnection,
    media_id: int,
    facts: MediaFacts | None = None,
    *,
    focus: Focus | None = None,
) -> None:
    """Store facts with the version that their row has now, in the transaction that changed it.

    Without ``facts`` the stored ones stay valid if the row still has the same source.
    """
    # Only the database knows the new version, so the row is read again.
    media = _media_of((await connection.execute(_BY_ID, {"media_id": media_id})).one())
    if facts is None and media.facts is not None and media.facts.source_path == media.source_path:
        facts = media.facts
    if facts is not None:
        bound = replace(facts, row_version=media.row_version, focus=focus or facts.focus)
        await connection.execute(_SAVE_FACTS, _fact_values(media_id, bound))


def _fact_values(media_id: int, facts: MediaFacts) -> dict[str, Any]:
    """Return the parameters of `_SAVE_FACTS`."""
    values = asdict(facts) | {"media_id": media_id}
    # They have a table of their own.
    del values["faces"]
    focus = values.pop("focus") or {"x": None, "y": None}
    return values | {"focus_x": focus["x"], "focus_y": focus["y"]}


def _media_of(
    row: sa.Row[Any],
    report: Callable[[int, str, str], object] = lambda *_: None,
    *,
    faces: bool = False,
) -> Media:
    """Convert a row of `_BY_ID`; ``report`` gets the id, the table and the column of a bad value.

    Raises:
        MediaRowInvalid: a path is not text. Other bad values are replaced, or have no effect.
    """
    # NULL: the outer join has found no facts.
    facts = None if row.content_hash is None else _facts_of(row, row.id, report)
    if faces and row.faces is not None and facts is not None:
        facts = _with_faces(facts, row, report)
    paths: dict[str, str | None] = {}
    for name in ("bulk_path", "library_path"):
        try:
            paths[name] = stored_text(getattr(row, name))
        except ValueError:
            report(row.id, "media_files", name)
            raise MediaRowInvalid(
                f"The {name} of this image in the database is not valid: the operator of the server"
                " must correct it."
            ) from None
    updated_at = utc_timestamp(row.updated_at)
    if not updated_at.timestamp() and row.updated_at:
        report(row.id, "media_files", "updated_at")
    return Media(
        id=row.id,
        user_id=row.user_id if isinstance(row.user_id, int) else 0,
        data_type=readable_text(row.data_type) or "",
        original_name=readable_text(row.original_name),
        mime_type=readable_text(row.mime_type),
        file_size=row.file_size if isinstance(row.file_size, int) else None,
        status=readable_text(row.status),
        updated_at=updated_at,
        facts=facts,
        bulk_path=paths["bulk_path"],
        library_path=paths["library_path"],
        choices=_choices_of(row, report),
    )


def _with_faces(
    facts: MediaFacts, row: sa.Row[Any], report: Callable[[int, str, str], object]
) -> MediaFacts:
    if row.faces_of != facts.content_hash:
        return facts
    try:
        return replace(facts, faces=stored_faces(row.faces))
    except ValueError:
        report(row.id, "media_faces", "faces")
        return facts


def _choices_of(row: sa.Row[Any], report: Callable[[int, str, str], object]) -> MediaChoices:
    # Most media have no row in the table.
    if row.choice_updated_at is None:
        return NO_CHOICES
    values = {name: getattr(row, f"choice_{name}") for name in CHOICES}
    found = stored_choices(values, lambda column: report(row.id, "media_choices", column))
    # All values were deleted: the image is again what it was before the first one was set.
    return NO_CHOICES if found == NO_CHOICES else found


def _facts_of(
    row: sa.Row[Any], media_id: int, report: Callable[[int, str, str], object]
) -> MediaFacts | None:
    """Return the facts in a row, or None if a value is not valid: they are read again."""
    try:
        # `_asdict` of SQLAlchemy takes a quarter of the time of a row. `_mapping` is public.
        values: Any = row._mapping if isinstance(row, sa.Row) else row._asdict()  # noqa: SLF001
        return stored_facts(values)
    except ValueError as error:
        report(media_id, "media_facts or media_fallbacks", str(error))
        return None
