"""Defines the tables of the main database, and statements on the columns that hold image paths."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Executable,
    MetaData,
    String,
    Table,
    inspect,
    literal,
    select,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import NoSuchTableError

from proxy.domain.pending_image import PendingStatus
from proxy.storage.database.tables import (
    MYSQL_OPTIONS,
    auto_id,
    created_at,
    foreign_id,
    one_of,
    required,
    updated_at,
)

metadata = MetaData()

pending_images = Table(
    "pending_images",
    metadata,
    auto_id(),
    required("user_id", BigInteger),
    required("image_path", String(255), index=True),
    Column("original_name", String(255)),
    Column("mime_type", String(100)),
    Column("permanent_url", String(500)),
    Column("thumbnail_url", String(500)),
    Column(
        "status", one_of(*PendingStatus), server_default=PendingStatus.PENDING.value, index=True
    ),
    created_at(),
    updated_at(),
    sqlite_autoincrement=True,
    **MYSQL_OPTIONS,
)


class ProfileColumn(NamedTuple):
    """A column that holds paths or addresses of images."""

    table: str
    name: str

    def __str__(self) -> str:
        """Return ``user_profiles.profile_image_path``."""
        return f"{self.table}.{self.name}"


PROFILE = ProfileColumn("user_profiles", "profile_image_path")
HEADER = ProfileColumn("user_profiles", "header_image_path")
ARTIST_LOGO = ProfileColumn("artist_profiles", "logo_path")
PROMOTER_LOGO = ProfileColumn("promoter_profiles", "logo_path")
SITE = ProfileColumn("site_media", "media_path")
COLUMNS = (PROFILE, HEADER, ARTIST_LOGO, PROMOTER_LOGO, SITE)
"""All five columns of section 4 of the requirements document."""

COLUMNS_OF: Mapping[str, tuple[ProfileColumn, ...]] = MappingProxyType(
    {
        "profile_image": (PROFILE,),
        "header_image": (HEADER,),
        "logo_image": (ARTIST_LOGO, PROMOTER_LOGO),
        "site_image": (SITE,),
    }
)
"""The columns that a field of the upload form sets. Fields without an entry set none."""


def _profile(name: str, *paths: str) -> Table:
    columns = (Column(path, String(500)) for path in paths)
    return Table(name, metadata, foreign_id("user_id"), *columns, **MYSQL_OPTIONS)


PROFILE_TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "user_profiles": _profile("user_profiles", "profile_image_path", "header_image_path"),
        "artist_profiles": _profile("artist_profiles", "logo_path"),
        "promoter_profiles": _profile("promoter_profiles", "logo_path"),
        "site_media": Table(
            "site_media",
            metadata,
            auto_id(),
            required("user_id", BigInteger),
            Column("media_path", String(500)),
            created_at(),
            **MYSQL_OPTIONS,
        ),
    }
)


def existing_columns(connection: Connection) -> frozenset[ProfileColumn]:
    """Return the columns that the database has; one of another program may lack some."""
    inspector = inspect(connection)
    found = set()
    for table in PROFILE_TABLES:
        try:
            names = {column["name"] for column in inspector.get_columns(table)}
        except NoSuchTableError:
            continue
        found |= {one for one in COLUMNS if one.table == table and one.name in names}
    return frozenset(found)


def replace_value(column: ProfileColumn, old: str, new: str | None) -> Executable:
    """Build an UPDATE of every row whose column equals ``old``."""
    table = PROFILE_TABLES[column.table]
    target = table.c[column.name]
    return table.update().where(target == old).values({target: new})


def profile_exists(column: ProfileColumn, user_id: int) -> Executable:
    """Build a SELECT that returns a row if the user has a profile."""
    table = PROFILE_TABLES[column.table]
    return select(literal(1)).select_from(table).where(table.c.user_id == user_id)


def update_profile(column: ProfileColumn, user_id: int, path: str) -> Executable:
    """Build an UPDATE of the user's profile; it changes nothing if there is none."""
    table = PROFILE_TABLES[column.table]
    return table.update().where(table.c.user_id == user_id).values({table.c[column.name]: path})


def upsert_profile(column: ProfileColumn, user_id: int, path: str, *, dialect: str) -> Executable:
    """Build one statement that updates the user's profile or inserts it."""
    table, values = PROFILE_TABLES[column.table], {"user_id": user_id, column.name: path}
    if column is SITE:
        return table.insert().values(values)
    # UPDATE then INSERT would deadlock in InnoDB: two updates of missing rows lock the same gap,
    # and then neither transaction may insert into it.
    if dialect == "sqlite":
        added = sqlite.insert(table).values(values)
        return added.on_conflict_do_update(set_={column.name: path})
    return mysql.insert(table).values(values).on_duplicate_key_update({column.name: path})
