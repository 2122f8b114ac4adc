"""Defines the tables of the main database, and statements on the columns that hold image paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import NoSuchTableError

from proxy.domain.upload import PendingStatus
from proxy.storage.database.tables import (
    auto_id,
    created_at,
    define_table,
    foreign_id,
    one_of,
    required,
    updated_at,
)

metadata = sa.MetaData()

pending_images = define_table(
    "pending_images",
    auto_id(),
    required("user_id", sa.BigInteger),
    required("image_path", sa.String(255), index=True),
    sa.Column("original_name", sa.String(255)),
    sa.Column("mime_type", sa.String(100)),
    sa.Column("permanent_url", sa.String(500)),
    sa.Column("thumbnail_url", sa.String(500)),
    sa.Column(
        "status", one_of(*PendingStatus), server_default=PendingStatus.PENDING.value, index=True
    ),
    created_at(),
    updated_at(),
    sqlite_autoincrement=True,
    target=metadata,
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

COLUMNS_OF: Mapping[str, tuple[ProfileColumn, ...]] = {
    "profile_image": (PROFILE,),
    "header_image": (HEADER,),
    "logo_image": (ARTIST_LOGO, PROMOTER_LOGO),
    "site_image": (SITE,),
}
"""The columns that a field of the upload form sets. Fields without an entry set none."""


def _profile(name: str, *paths: str) -> sa.Table:
    columns = (sa.Column(path, sa.String(500)) for path in paths)
    return define_table(name, foreign_id("user_id"), *columns, target=metadata)


PROFILE_TABLES: Mapping[str, sa.Table] = {
    "user_profiles": _profile("user_profiles", "profile_image_path", "header_image_path"),
    "artist_profiles": _profile("artist_profiles", "logo_path"),
    "promoter_profiles": _profile("promoter_profiles", "logo_path"),
    "site_media": define_table(
        "site_media",
        auto_id(),
        required("user_id", sa.BigInteger),
        sa.Column("media_path", sa.String(500)),
        created_at(),
        target=metadata,
    ),
}


def existing_columns(connection: sa.Connection) -> frozenset[ProfileColumn]:
    """Return the columns that the database has; one of another program may lack some."""
    inspector = sa.inspect(connection)
    found = set()
    for table in PROFILE_TABLES:
        try:
            names = {column["name"] for column in inspector.get_columns(table)}
        # Another program may lack the table.
        except NoSuchTableError:
            continue
        found |= {one for one in COLUMNS if one.table == table and one.name in names}
    return frozenset(found)


def replace_value(column: ProfileColumn, old: str, new: str | None) -> sa.Executable:
    """Build an UPDATE of every row whose column equals ``old``."""
    table = PROFILE_TABLES[column.table]
    target = table.c[column.name]
    return table.update().where(target == old).values({target: new})


def profile_exists(column: ProfileColumn, user_id: int) -> sa.Executable:
    """Build a SELECT that returns a row if the user has a profile."""
    table = PROFILE_TABLES[column.table]
    return sa.select(sa.literal(1)).select_from(table).where(table.c.user_id == user_id)


def update_profile(column: ProfileColumn, user_id: int, path: str) -> sa.Executable:
    """Build an UPDATE of the user's profile; it changes nothing if there is none."""
    table = PROFILE_TABLES[column.table]
    return table.update().where(table.c.user_id == user_id).values({table.c[column.name]: path})


def upsert_profile(
    column: ProfileColumn, user_id: int, path: str, *, dialect: str
) -> sa.Executable:
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
