"""Defines the tables of the main database, and the columns that hold image paths."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
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


def _profile(name: str, *paths: str) -> sa.Table:
    columns = (sa.Column(path, sa.String(500)) for path in paths)
    return define_table(name, foreign_id("user_id"), *columns, target=metadata)


_users = _profile("user_profiles", "profile_image_path", "header_image_path")
_artists = _profile("artist_profiles", "logo_path")
_promoters = _profile("promoter_profiles", "logo_path")
_sites = define_table(
    "site_media",
    auto_id(),
    required("user_id", sa.BigInteger),
    sa.Column("media_path", sa.String(500)),
    created_at(),
    target=metadata,
)
PROFILE_TABLES = (_users, _artists, _promoters, _sites)

ProfileColumn = sa.Column[Any]
"""A column that holds paths or addresses of images; its text is ``table.name``."""

PROFILE, HEADER = _users.c.profile_image_path, _users.c.header_image_path
ARTIST_LOGO, PROMOTER_LOGO = _artists.c.logo_path, _promoters.c.logo_path
SITE = _sites.c.media_path
COLUMNS: tuple[ProfileColumn, ...] = (PROFILE, HEADER, ARTIST_LOGO, PROMOTER_LOGO, SITE)
"""All five columns of section 4 of the requirements document."""

COLUMNS_OF: Mapping[str, tuple[ProfileColumn, ...]] = {
    "profile_image": (PROFILE,),
    "header_image": (HEADER,),
    "logo_image": (ARTIST_LOGO, PROMOTER_LOGO),
    "site_image": (SITE,),
}
"""The columns that a field of the upload form sets. Fields without an entry set none."""


def columns_of_users(connection: sa.Connection) -> frozenset[ProfileColumn]:
    """Return the existing columns whose tables say which user a row belongs to."""
    return existing_columns(connection, of_users=True)


def existing_columns(
    connection: sa.Connection, *, of_users: bool = False
) -> frozenset[ProfileColumn]:
    """Return the profile columns that the database has."""
    inspector = sa.inspect(connection)
    found: set[ProfileColumn] = set()
    for table in PROFILE_TABLES:
        # Another program may lack the table, or a column of it.
        with suppress(NoSuchTableError):
            names = {column["name"] for column in inspector.get_columns(table.name)}
            # Another program may know the user of a site's media in another way.
            if of_users and "user_id" not in names:
                continue
            found |= {one for one in COLUMNS if one.table is table and one.name in names}
    return frozenset(found)
