"""Media that are not (yet) served, sources that cannot be read, and a database that is away."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from yarl import URL

from proxy.domain.media import DataType
from proxy.library.import_files import ImportedFile
from proxy.rendering.pool import process as process_module
from proxy.web.server.load_shedding import LoadShedder
from tests.support.mariadb import private_mariadb
from tests.support.server import Library, Serve, Serving
from tests.support.waiting import eventually


async def get(server: Serving, path: str, **headers: str) -> Any:
    return await server.client.get(URL(path, encoded=True), headers=headers)


@pytest.fixture
def photo(library: Library) -> int:
    return library.ids["photo"]


def change(data_dir: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database, database:
        database.execute(statement, values)
    database.close()


def original(data_dir: Path, media_id: int) -> Path:
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database, database:
        query = "SELECT bulk_path FROM media_files WHERE id = ?"
        (path,) = database.execute(query, (media_id,)).fetchone()
    database.close()
    return data_dir / "originals" / str(path)


@pytest.mark.parametrize("status", ["downloading", "processing"])
async def test_a_medium_under_way_is_served_from_its_original_for_a_short_time(
    serve: Serve, data_dir: Path, photo: int, status: str
) -> None:
    change(data_dir, "UPDATE media_files SET status = ? WHERE id = ?", status, photo)
    answer = await get(await serve(), f"/serve/{photo}?size=small&v=1")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "public, max-age=30"


async def test_a_medium_under_way_without_an_original_is_to_be_asked_for_again(
    serve: Serve, data_dir: Path, photo: int
) -> None:
    statement = "UPDATE media_files SET status = 'processing', bulk_path = NULL WHERE id = ?"
    change(data_dir, statement, photo)
    answer = await get(await serve(), f"/serve/{photo}")
    assert (answer.status, answer.headers["Retry-After"]) == (404, "10")
    assert answer.headers["Cache-Control"] == "public, max-age=10"


@pytest.mark.parametrize("status", ["failed", None, ""])
async def test_a_medium_that_failed_is_not_found(
    serve: Serve, data_dir: Path, photo: int, status: str | None
) -> None:
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database, database:
        database.execute("PRAGMA ignore_check_constraints = 1")
        database.execute("UPDATE media_files SET status = ? WHERE id = ?", (status, photo))
    database.close()
    answer = await get(await serve(), f"/serve/{photo}")
    assert answer.status == 404
    assert "Retry-After" not in answer.headers


async def test_a_half_downloaded_original_is_looked_at_again_when_it_is_whole(
    serve: Serve, data_dir: Path, library: Library
) -> None:
    photo = library.ids["large"]
    path = original(data_dir, photo)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    change(data_dir, "DELETE FROM media_facts")
    change(data_dir, "UPDATE media_files SET status = 'downloading' WHERE id = ?", photo)
    server = await serve(database={"row_ttl_s": 0.05})
    half = await get(server, f"/serve/{photo}?size=thumbnail")
    assert (half.status, half.headers["Cache-Control"]) == (200, "public, max-age=30")
    path.write_bytes(whole)
    change(data_dir, "UPDATE media_files SET status = 'completed' WHERE id = ?", photo)

    async def changed() -> bool:
        answer = await get(server, f"/serve/{photo}?size=thumbnail")
        return bool(answer.headers["ETag"] != half.headers["ETag"])

    await eventually(changed)
    complete = await get(server, f"/serve/{photo}?size=thumbnail")
    assert await complete.read() != await half.read()


async def test_a_hot_answer_is_not_given_past_its_rows_time(
    serve: Serve, data_dir: Path, photo: int
) -> None:
    server = await serve(database={"row_ttl_s": 0.2})
    for _ in range(3):
        assert (await get(server, f"/serve/{photo}?size=small")).status == 200
    change(data_dir, "UPDATE media_files SET status = 'failed' WHERE id = ?", photo)

    async def gone() -> bool:
        return bool((await get(server, f"/serve/{photo}?size=small")).status == 404)

    await eventually(gone)


async def test_the_processed_file_is_served_where_the_original_is_missing(
    serve: Serve, data_dir: Path, photo: int
) -> None:
    source = original(data_dir, photo)
    source.rename(source.with_name("processed.jpg"))
    path = str(source.with_name("processed.jpg").relative_to(data_dir / "originals"))
    change(data_dir, "UPDATE media_files SET library_path = ? WHERE id = ?", path, photo)
    assert (await get(await serve(), f"/serve/{photo}")).status == 200


async def test_the_processed_file_is_served_where_there_is_no_original(
    serve: Serve, data_dir: Path, photo: int
) -> None:
    source = original(data_dir, photo)
    library = data_dir / "originals" / "library" / "user_7" / "product" / "img"
    library.mkdir(parents=True)
    source.rename(library / "picture.jpg")
    path = "/library/user_7/product/img/picture.jpg"
    statement = "UPDATE media_files SET bulk_path = NULL, library_path = ? WHERE id = ?"
    change(data_dir, statement, path, photo)
    assert (await get(await serve(), f"/serve/{photo}")).status == 200


async def test_facts_are_learned_where_an_old_database_has_none(
    serve: Serve, data_dir: Path, photo: int
) -> None:
    change(data_dir, "DELETE FROM media_facts")
    server = await serve(workers={"count": 2})
    answers = await asyncio.gather(*(get(server, f"/serve/{photo}?size=small") for _ in range(20)))
    assert [answer.status for answer in answers] == [200] * 20
    assert server.services.rendering.pool.statistics()["jobs"] == 2, (
        "one look at the picture, one render"
    )
    with closing(sqlite3.connect(data_dir / "smartserve.db")) as database, database:
        row = database.execute("SELECT width, height, pages FROM media_facts").fetchall()
    database.close()
    assert row == [(768, 512, 1)]


async def test_a_missing_file_is_not_found(serve: Serve, data_dir: Path, photo: int) -> None:
    original(data_dir, photo).unlink()
    server = await serve()
    answer = await get(server, f"/serve/{photo}")
    assert answer.status == 404
    assert server.metric("smartserve_source_errors_total", kind="missing") == 1


async def test_the_cause_of_a_failure_is_logged_once_a_second(
    serve: Serve, data_dir: Path, photo: int
) -> None:
    original(data_dir, photo).unlink()
    server = await serve()
    with capture_logs() as lines:
        for size in ("small", "grid", "zoom"):
            await get(server, f"/serve/{photo}?size={size}")
    told = [line for line in lines if line["event"] == "answer_failed"]
    assert [(line["error"], line["media_id"]) for line in told] == [("SourceMissing", photo)]


async def test_a_missing_storage_is_to_be_asked_for_again(
    serve: Serve, data_dir: Path, photo: int
) -> None:
    (data_dir / "originals").rename(data_dir / "gone")
    server = await serve(storage={"root": str(data_dir / "originals")})
    answer = await get(server, f"/serve/{photo}")
    assert (answer.status, answer.headers["Cache-Control"]) == (503, "no-store")


async def test_the_nearest_size_stands_in_for_a_source_that_cannot_be_read(
    serve: Serve, data_dir: Path, photo: int
) -> None:
    server = await serve()
    cached = {
        size: await (await get(server, f"/serve/{photo}?size={size}")).read()
        for size in ("thumbnail", "small")
    }
    await server.services.serving.renderer.drain()
    original(data_dir, photo).unlink()
    answer = await get(server, f"/serve/{photo}?size=grid")
    assert (answer.status, await answer.read()) == (200, cached["small"])
    assert answer.headers["Cache-Control"] == "public, max-age=30"
    assert answer.headers["Cache-Status"] == "smartserve; hit; detail=fallback"


async def test_a_full_queue_gives_the_nearest_size_or_a_time_to_come_back(
    serve: Serve, photo: int, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a machine that does nothing else. Lag is tested in test_load_shedding.
    monkeypatch.setattr(LoadShedder, "late_s", 0.0)
    server = await serve(workers={"count": 1, "max_queue": 0, "retry_after_s": 3})
    await get(server, f"/serve/{photo}?size=small")
    await server.services.serving.renderer.drain()
    large = f"/serve/{library.ids['large']}.avif?size=zoom"
    slow = asyncio.create_task(get(server, large))
    await eventually(lambda: server.metric("smartserve_renders_in_flight"))
    stand_in = await get(server, f"/serve/{photo}?size=grid")
    turned_away = await get(server, f"/serve/{library.ids['logo']}?size=grid")
    assert (await slow).status == 200
    assert stand_in.headers["Cache-Status"] == "smartserve; hit; detail=fallback"
    assert (turned_away.status, turned_away.headers["Retry-After"]) == (503, "3")
    assert server.metric("smartserve_rejections_total", reason="queue_full") == 2


async def test_a_picture_replaced_under_its_path_is_served_anew(
    serve: Serve, data_dir: Path, photo: int, library: Library
) -> None:
    server = await serve()
    old = await get(server, f"/serve/{photo}?size=thumbnail")
    original(data_dir, photo).write_bytes(original(data_dir, library.ids["large"]).read_bytes())
    new = await get(server, f"/serve/{photo}?size=small")
    assert new.status == 200
    again = await get(server, f"/serve/{photo}?size=thumbnail")
    assert again.headers["ETag"] != old.headers["ETag"]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='a.png'/></svg>", 415),
        (b"%PDF-1.7 and so on", 415),
        (b"\xff\xd8\xff\xe0 and then nothing of a JPEG", 422),
        (b"", 415),
    ],
)
async def test_a_source_that_is_no_picture_is_refused_with_its_reason(
    serve: Serve, data_dir: Path, photo: int, content: bytes, status: int
) -> None:
    change(data_dir, "DELETE FROM media_facts")
    original(data_dir, photo).write_bytes(content)
    server = await serve()
    answers = [await get(server, f"/serve/{photo}?size={size}") for size in ("small", "grid")]
    assert [answer.status for answer in answers] == [status, status]
    assert answers[0].headers["Cache-Control"] == "no-store"
    assert server.services.rendering.pool.statistics()["jobs"] == 1, "the second is refused unheard"


async def test_a_picture_that_takes_too_long_times_out(serve: Serve, library: Library) -> None:
    server = await serve(workers={"count": 1, "deadline_s": 0.05, "wall_clock_factor": 100})
    answer = await get(server, f"/serve/{library.ids['large']}.avif?size=zoom")
    assert answer.status == 504


async def test_a_picture_that_gets_no_cpu_time_is_not_blamed(
    serve: Serve, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await serve(workers={"count": 1, "deadline_s": 0.05, "wall_clock_factor": 2})
    monkeypatch.setattr(process_module, "cpu_time", lambda _: 1.0)
    monkeypatch.setattr(process_module, "_is_runnable", lambda _: True)
    answer = await get(server, f"/serve/{library.ids['large']}.avif?size=zoom")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert "the machine is overloaded" in (await answer.json())["detail"]
    assert server.metric("smartserve_worker_restarts_total", reason="starved") == 1
    assert server.services.rendering.dispatcher._failures.statistics() == {"items": 0}


async def test_the_nearest_size_stands_in_for_a_render_that_takes_too_long(
    serve: Serve, library: Library
) -> None:
    large = library.ids["large"]
    first = await serve()
    await get(first, f"/serve/{large}.avif?size=thumbnail")
    await first.services.serving.renderer.drain()
    second = await serve(workers={"count": 1, "deadline_s": 0.05, "wall_clock_factor": 100})
    answer = await get(second, f"/serve/{large}.avif?size=zoom")
    assert answer.headers["Cache-Status"] == "smartserve; hit; detail=fallback"
    assert "Last-Modified" not in answer.headers


@pytest.mark.slow
async def test_a_client_that_leaves_does_not_end_the_render(serve: Serve, photo: int) -> None:
    server = await serve()
    leaving = asyncio.create_task(get(server, f"/serve/{photo}.avif?size=zoom"))
    await eventually(lambda: server.metric("smartserve_renders_in_flight"))
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await server.services.serving.renderer.drain()
    answer = await get(server, f"/serve/{photo}.avif?size=zoom")
    assert answer.headers["Cache-Status"] == "smartserve; hit; detail=memory"


@pytest.mark.slow
async def test_workers_killed_under_load_cost_no_answer(serve: Serve, photo: int) -> None:
    server = await serve(workers={"count": 2})
    sizes = ["thumbnail", "small", "grid", "detail", "header"]
    requests = [
        asyncio.create_task(get(server, f"/serve/{photo}.{suffix}?size={size}"))
        for size in sizes
        for suffix in ("avif", "webp")
    ]
    await eventually(lambda: server.metric("smartserve_renders_in_flight"))
    os.kill(server.services.rendering.pool.pids[0], signal.SIGKILL)
    answers = await asyncio.gather(*requests)
    assert {answer.status for answer in answers} == {200}


@pytest.mark.slow
async def test_with_the_database_away_known_pictures_go_on(
    serve: Serve, library: Library, data_dir: Path
) -> None:
    with private_mariadb() as mariadb:
        url = mariadb.url(await asyncio.to_thread(mariadb.create_database))
        section = {"url": url, "row_ttl_s": 0.001, "connect_timeout_s": 5, "query_timeout_s": 5}
        server = await serve(database=section)
        taken = await server.services.importer.import_file(
            original(data_dir, library.ids["photo"]), user_id=1, data_type=DataType.PRODUCT
        )
        assert isinstance(taken, ImportedFile)
        known = f"/serve/{taken.media_id}?size=small"
        assert (await get(server, known)).status == 200
        await asyncio.to_thread(mariadb.kill)
        assert (await get(server, known)).status == 200
        other_size = known.replace("small", "grid")
        assert (await get(server, other_size)).status == 200
        unknown = await get(server, "/serve/4242")
        assert (unknown.status, unknown.headers["Retry-After"]) == (503, "5")
        ready = await get(server, "/readyz")
        assert (ready.status, (await get(server, "/healthz")).status) == (503, 200)
        await asyncio.to_thread(mariadb.start)

        async def back() -> bool:
            status: int = (await get(server, "/serve/4242")).status
            return status == 404

        async def ready_again() -> bool:
            status: int = (await get(server, "/readyz")).status
            return status == 200

        await eventually(back, timeout_s=5)
        # Probes of the same second share a result.
        await eventually(ready_again, timeout_s=5)
