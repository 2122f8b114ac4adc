"""Where the addresses of uploads stand in the main database: the columns of the profiles."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Column,
    Connection,
    Executable,
    Integer,
    MetaData,
    String,
    Table,
    inspect,
    literal,
    select,
    text,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.exc import NoSuchTableError

from proxy.domain.pending_image import PendingStatus
from proxy.storage.database.tables import UpdatedAt

metadata = MetaData()

pending_images = Table(
    "pending_images",
    metadata,
    Column(
        "id",
        BigInteger().with_variant(Integer(), "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    Column("user_id", BigInteger, nullable=False),
    Column("image_path", String(255), nullable=False, index=True),
    Column("original_name", String(255)),
    Column("mime_type", String(100)),
    Column("permanent_url", String(500)),
    Column("thumbnail_url", String(500)),
    Column(
        "status",
        String(16).with_variant(mysql.ENUM(*PendingStatus), "mysql"),
        server_default=PendingStatus.PENDING.value,
        index=True,
    ),
    Column("created_at", TIMESTAMP, server_default=text("CURRENT_TIMESTAMP")),
    Column("updated_at", TIMESTAMP, server_default=UpdatedAt()),
    sqlite_autoincrement=True,
)


class ProfileColumn(NamedTuple):
    """A column that holds addresses of pictures."""

    table: str
    name: str

    def __str__(self) -> str:
        """``user_profiles.profile_image_path``."""
        return f"{self.table}.{self.name}"


PROFILE = ProfileColumn("user_profiles", "profile_image_path")
HEADER = ProfileColumn("user_profiles", "header_image_path")
ARTIST_LOGO = ProfileColumn("artist_profiles", "logo_path")
PROMOTER_LOGO = ProfileColumn("promoter_profiles", "logo_path")
SITE = ProfileColumn("site_media", "media_path")
COLUMNS = (PROFILE, HEADER, ARTIST_LOGO, PROMOTER_LOGO, SITE)
"""All five, as section 4 of the requirements document has them."""

COLUMNS_OF: Mapping[str, tuple[ProfileColumn, ...]] = MappingProxyType(
    {
        "profile_image": (PROFILE,),
        "header_image": (HEADER,),
        "logo_image": (ARTIST_LOGO, PROMOTER_LOGO),
        "site_image": (SITE,),
    }
)
"""By the field of the upload form; what is not here has no place in a profile."""

_TABLES: Mapping[str, Table] = MappingProxyType(
    {
        "user_profiles": Table(
            "user_profiles",
            metadata,
            Column("user_id", BigInteger, primary_key=True, autoincrement=False),
            Column("profile_image_path", String(500)),
            Column("header_image_path", String(500)),
        ),
        "artist_profiles": Table(
            "artist_profiles",
            metadata,
            Column("user_id", BigInteger, primary_key=True, autoincrement=False),
            Column("logo_path", String(500)),
        ),
        "promoter_profiles": Table(
            "promoter_profiles",
            metadata,
            Column("user_id", BigInteger, primary_key=True, autoincrement=False),
            Column("logo_path", String(500)),
        ),
        "site_media": Table(
            "site_media",
            metadata,
            Column(
                "id",
                BigInteger().with_variant(Integer(), "sqlite"),
                primary_key=True,
                autoincrement=True,
            ),
            Column("user_id", BigInteger, nullable=False),
            Column("media_path", String(500)),
            Column("created_at", TIMESTAMP, server_default=text("CURRENT_TIMESTAMP")),
        ),
    }
)


def present(connection: Connection) -> frozenset[ProfileColumn]:
    """Which of the columns the database has; what belongs to another program may lack some."""
    inspector = inspect(connection)
    found = set()
    for table in _TABLES:
        try:
            columns = {column["name"] for column in inspector.get_columns(table)}
        except NoSuchTableError:
            continue
        found |= {one for one in COLUMNS if one.table == table and one.name in columns}
    return frozenset(found)


def replacing(column: ProfileColumn, old: str, new: str | None) -> Executable:
    """Put one address, or none, in the place of another, wherever exactly that one stands."""
    table = _TABLES[column.table]
    holder = table.c[column.name]
    return table.update().where(holder == old).values({holder: new})


def having(column: ProfileColumn, user_id: int) -> Executable:
    """Whether a user has a profile: one row, or none."""
    table = _TABLES[column.table]
    return select(literal(1)).select_from(table).where(table.c.user_id == user_id)


def setting(column: ProfileColumn, user_id: int, path: str) -> Executable:
    """Put an address into the profile that a user has; without one nothing is changed."""
    table = _TABLES[column.table]
    return table.update().where(table.c.user_id == user_id).values({table.c[column.name]: path})


def making(column: ProfileColumn, user_id: int, path: str, *, dialect: str) -> Executable:
    """Put an address into a user's profile, which is made where there is none. One statement.

    Update and insert would deadlock in InnoDB: two updates of missing rows share their gap.
    """
    table, values = _TABLES[column.table], {"user_id": user_id, column.name: path}
    if column is SITE:
        return table.insert().values(values)
    if dialect == "sqlite":
        added = sqlite.insert(table).values(values)
        return added.on_conflict_do_update(set_={column.name: path})
    return mysql.insert(table).values(values).on_duplicate_key_update({column.name: path})
