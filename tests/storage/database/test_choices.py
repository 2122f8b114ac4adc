"""What people decide about media, on each database."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from proxy.domain.errors import BadParameter
from proxy.domain.media import (
    NO_CHOICES,
    Background,
    CropBox,
    Focus,
    Media,
    MediaChoices,
    MediaFacts,
    Visibility,
)
from proxy.domain.variant import PurgeEntry
from proxy.storage.database import NewMedia
from proxy.storage.database.choices import MAX_TEXTS, AltTextRepository, ChoicesRepository
from proxy.storage.database.leased_writer import LeasedWriter
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.database.purge_table import PurgeTable
from tests.storage.database.backends import Backend

FOCUS = Focus(1 / 3, 0.1)
BOX = CropBox(0.1, 0.2, 1 / 3, 0.5)


@pytest.fixture
def choices(writer: LeasedWriter) -> ChoicesRepository:
    return ChoicesRepository(writer)


@pytest.fixture
async def media_id(database: SqlMediaRepository, new: NewMedia, facts: MediaFacts) -> int:
    return await database.insert(new, facts)


async def find(database: SqlMediaRepository, media_id: int) -> Media:
    found = await database.find(media_id)
    assert found is not None
    assert found == (await database.find_many([media_id]))[media_id]
    return found


async def test_a_medium_without_a_row_has_no_choices(
    database: SqlMediaRepository, media_id: int
) -> None:
    assert (await find(database, media_id)).choices is NO_CHOICES


async def test_each_value_is_read_with_the_row_and_leaves_the_others_as_they_are(
    choices: ChoicesRepository, database: SqlMediaRepository, media_id: int
) -> None:
    await choices.set_focus(media_id, FOCUS)
    await choices.set_crop(media_id, "thumbnail", BOX)
    await choices.set_crop(media_id, "header", replace_width(BOX))
    await choices.set_background(media_id, Background.REMOVED)
    returned = await choices.set_visibility(media_id, Visibility.PRIVATE)
    crops = (("header", replace_width(BOX)), ("thumbnail", BOX))
    assert returned == MediaChoices(FOCUS, crops, Background.REMOVED, Visibility.PRIVATE)
    assert (await find(database, media_id)).choices == returned
    assert [one.choices for one in await database.newest(before=media_id + 1, limit=1)] == [
        returned
    ]


def replace_width(box: CropBox) -> CropBox:
    return box._replace(width=0.25)


async def test_deleted_values_are_decided_automatically_again(
    choices: ChoicesRepository, database: SqlMediaRepository, media_id: int
) -> None:
    for focus, box, background in ((FOCUS, BOX, Background.ORIGINAL), (None, None, None)):
        await choices.set_focus(media_id, focus)
        await choices.set_crop(media_id, "header", box)
        await choices.set_background(media_id, background)
    assert (await find(database, media_id)).choices is NO_CHOICES


async def test_choices_survive_when_facts_are_read_again(
    choices: ChoicesRepository, database: SqlMediaRepository, media_id: int, facts: MediaFacts
) -> None:
    await choices.set_focus(media_id, FOCUS)
    await database.save_facts(
        media_id, replace(facts, content_hash="cd" * 32, focus=None), since=await database.now() + 1
    )
    found = await find(database, media_id)
    assert found.choices.focus == FOCUS
    assert found.facts is not None
    assert found.facts.focus is None


async def test_an_unknown_medium_gets_no_row(
    choices: ChoicesRepository, backend: Backend, url: str
) -> None:
    assert await choices.set_focus(999, FOCUS) is None
    assert backend.run(url, "SELECT COUNT(*) FROM media_choices") == ["0"]
    assert backend.run(url, "SELECT COUNT(*) FROM purges") == ["0"]


async def test_a_change_is_announced_to_other_servers_and_not_to_its_own(
    writer: LeasedWriter, media_id: int
) -> None:
    here, there = (PurgeTable(reader=writer, writer=writer, retention_days=1) for _ in range(2))
    before = await there.now() - 1
    await ChoicesRepository(writer, server=here.server).set_focus(media_id, FOCUS)
    assert [purge.entry for purge in await there.read(before)] == [PurgeEntry(media_id)]
    assert await here.read(before) == []


async def test_a_value_that_is_set_again_is_not_announced_again(
    choices: ChoicesRepository, writer: LeasedWriter, media_id: int
) -> None:
    there = PurgeTable(reader=writer, writer=writer, retention_days=1)
    before = await there.now() - 1
    for _ in range(2):
        assert await choices.set_focus(media_id, FOCUS) == MediaChoices(focus=FOCUS)
    assert len(await there.read(before)) == 1


async def test_editors_who_set_different_values_at_once_keep_all_of_them(
    choices: ChoicesRepository, database: SqlMediaRepository, media_id: int
) -> None:
    names = [f"size{at}" for at in range(8)]
    await asyncio.gather(
        choices.set_focus(media_id, FOCUS),
        choices.set_background(media_id, Background.REMOVED),
        *(choices.set_crop(media_id, name, BOX) for name in names),
    )
    crops = tuple((name, BOX) for name in names)
    expected = MediaChoices(FOCUS, crops, Background.REMOVED)
    assert (await find(database, media_id)).choices == expected


async def test_the_time_of_the_last_change_is_stored(
    choices: ChoicesRepository, writer: LeasedWriter, backend: Backend, url: str, media_id: int
) -> None:
    now = await PurgeTable(reader=writer, writer=writer, retention_days=1).now()
    await choices.set_focus(media_id, FOCUS)
    (stored,) = backend.run(url, "SELECT updated_at FROM media_choices")
    assert abs(float(stored) - now) < 60


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("focus_x", "1.5"),
        ("focus_y", "-0.1"),
        ("focus_y", "NULL"),
        ("crops", "'[1]'"),
        ("crops", "'null'"),
        ("crops", "'{\"header\": [0, 0, 2, 1]}'"),
        ("crops", "'{\"header\": [0.5, 0, 0.6, 1]}'"),
        ("crops", "'{\"header\": [0, 0, 0.001, 1]}'"),
        ("crops", "'{\"header\": [0, 0, true, 1]}'"),
        ("crops", "'{\"header\": [0, 0, 1]}'"),
        ("background", "'blurred'"),
    ],
)
async def test_a_bad_value_counts_as_not_set_and_is_reported(
    choices: ChoicesRepository,
    database: SqlMediaRepository,
    backend: Backend,
    url: str,
    media_id: int,
    column: str,
    value: str,
) -> None:
    await choices.set_focus(media_id, FOCUS)
    await choices.set_crop(media_id, "header", BOX)
    await choices.set_background(media_id, Background.REMOVED)
    backend.run(url, f"UPDATE media_choices SET {column} = {value}; SELECT 1")
    whole = MediaChoices(FOCUS, (("header", BOX),), Background.REMOVED)
    name, empty = {"crops": ("crops", ()), "background": ("background", None)}.get(
        column, ("focus", None)
    )
    with capture_logs() as logs:
        assert (await find(database, media_id)).choices == replace(whole, **{name: empty})  # type: ignore[arg-type]
    reported = [one for one in logs if one["event"] == "database_value_invalid"]
    assert [one["table"] for one in reported] == ["media_choices"]


async def test_an_unknown_visibility_is_private(
    choices: ChoicesRepository,
    database: SqlMediaRepository,
    backend: Backend,
    url: str,
    media_id: int,
) -> None:
    await choices.set_visibility(media_id, Visibility.PUBLIC)
    backend.run(url, "UPDATE media_choices SET visibility = 'embargo'; SELECT 1")
    assert (await find(database, media_id)).choices.visibility is Visibility.PRIVATE


async def test_choices_of_a_deleted_medium_are_deleted_with_its_purge(
    choices: ChoicesRepository, writer: LeasedWriter, backend: Backend, url: str, media_id: int
) -> None:
    await choices.set_focus(media_id, FOCUS)
    table = PurgeTable(reader=writer, writer=writer, retention_days=1)
    await table.record([PurgeEntry(media_id)])
    assert backend.run(url, "SELECT COUNT(*) FROM media_choices") == ["1"]
    backend.run(url, "DELETE FROM media_files; SELECT 1")
    await table.record([PurgeEntry(media_id)])
    assert backend.run(url, "SELECT COUNT(*) FROM media_choices") == ["0"]


@pytest.fixture
def alts(database: SqlMediaRepository, writer: LeasedWriter) -> AltTextRepository:
    return AltTextRepository(reader=database, writer=writer)


async def test_texts_are_stored_by_language_and_leave_the_others_as_they_are(
    alts: AltTextRepository, media_id: int
) -> None:
    assert await alts.find(media_id) == {}
    assert await alts.set_texts(media_id, {"en": "A ship", "de": "Ein Schiff 🚢"})
    assert await alts.set_texts(media_id, {"en": "A large ship", "zh-Hant": ""})
    stored = {"de": "Ein Schiff 🚢", "en": "A large ship", "zh-Hant": ""}
    assert list((await alts.find(media_id)).items()) == list(stored.items())
    assert await alts.find_many([media_id, 999]) == {media_id: stored}
    assert await alts.delete(media_id, "en")
    assert await alts.delete(media_id, "fr")
    assert (await alts.find(media_id)).keys() == {"de", "zh-Hant"}
    assert await alts.delete(media_id)
    assert await alts.find(media_id) == {}


async def test_a_text_announces_that_rows_and_descriptions_are_out_of_date(
    alts: AltTextRepository, writer: LeasedWriter, media_id: int
) -> None:
    there = PurgeTable(reader=writer, writer=writer, retention_days=1)
    before = await there.now() - 1
    await alts.set_texts(media_id, {"en": "A ship"})
    await alts.delete(media_id)
    # There is nothing left to delete.
    await alts.delete(media_id)
    entry = PurgeEntry(media_id, frozenset())
    assert [purge.entry for purge in await there.read(before)] == [entry] * 2


async def test_a_medium_has_texts_in_a_limited_number_of_languages(
    alts: AltTextRepository, media_id: int
) -> None:
    assert await alts.set_texts(media_id, {f"de-x-{at}": "x" for at in range(MAX_TEXTS)})
    with pytest.raises(BadParameter, match="delete others first"):
        await alts.set_texts(media_id, {"en": "One more"})
    assert len(await alts.find(media_id)) == MAX_TEXTS


async def test_texts_of_an_unknown_or_deleted_medium_are_not_kept(
    alts: AltTextRepository, writer: LeasedWriter, backend: Backend, url: str, media_id: int
) -> None:
    assert not await alts.set_texts(999, {"en": "Nothing"})
    assert not await alts.delete(999)
    await alts.set_texts(media_id, {"en": "A ship"})
    backend.run(url, "DELETE FROM media_files; SELECT 1")
    table = PurgeTable(reader=writer, writer=writer, retention_days=1)
    await table.record([PurgeEntry(media_id)])
    assert backend.run(url, "SELECT COUNT(*) FROM media_alt_texts") == ["0"]


async def test_editors_who_write_the_same_text_at_once_do_not_collide(
    alts: AltTextRepository, media_id: int
) -> None:
    await asyncio.gather(*(alts.set_texts(media_id, {"en": f"Text {at}"}) for at in range(10)))
    assert (await alts.find(media_id))["en"].startswith("Text ")
