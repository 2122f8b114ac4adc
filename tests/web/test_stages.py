"""Two stages: a draft at once, the final in its place, on real pictures and real workers."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientResponse
from PIL import Image

from tests.support.server import CHROME, Library, Serve, Serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow  # real finals take seconds; the rules are in tests/serving

YEAR = "public, max-age=31536000"
BRIEF = "public, max-age=60, stale-while-revalidate=600"
ASKED_ONLY: Mapping[str, Any] = {"enabled": True, "all_sizes": False, "budget_s": 0}
QUICK: Mapping[str, Any] = {
    "target": 0,
    "avif": {"final": {"effort": 1}},
    "webp": {"final": {"effort": 3}},
}
"""Finals that are made in no time: where a test is not about their quality."""


async def get(
    server: Serving, path: str, *, accept: str = CHROME, **headers: str
) -> ClientResponse:
    answer = await server.client.get(path, headers={"Accept": accept, **headers})
    await answer.read()
    return answer


async def settled(server: Serving) -> None:
    """Return when no final is wished for any more; on a busy machine that may take its time."""
    await eventually(
        lambda: (
            not server.metric("smartserve_upgrade_backlog")
            # Renditions that another request left, with the same content by other settings.
            and not server.metric("smartserve_upgrade_remakes")
        ),
        timeout_s=240,
    )


def is_draft(answer: ClientResponse) -> bool:
    return answer.headers["Cache-Status"].endswith("; detail=draft")


def files(data_dir: Path) -> set[str]:
    return {path.name for path in (data_dir / "renditions").glob("??/*/*")}


def thumbnail(library: Library, name: str = "photo") -> str:
    return f"/serve/{library.ids[name]}?size=thumbnail"


async def test_a_draft_goes_out_at_once_and_the_final_takes_its_place(
    serve: Serve, library: Library
) -> None:
    server = await serve(upgrades=ASKED_ONLY)
    path = f"{thumbnail(library)}&v=1"
    draft = await get(server, path)
    assert is_draft(draft)
    assert draft.headers["Cache-Control"] == BRIEF
    assert "Last-Modified" not in draft.headers
    again = await get(server, path)
    assert (is_draft(again), again.headers["ETag"]) == (True, draft.headers["ETag"])
    # The one header of an image that a page can read.
    stages = [one.headers["Server-Timing"].partition(",")[0] for one in (draft, again)]
    assert stages == ["draft", "draft"]
    await settled(server)
    final = await get(server, path)
    assert "draft" not in final.headers["Server-Timing"]
    assert final.headers["Cache-Status"] == "smartserve; hit; detail=memory"
    assert final.headers["Cache-Control"] == f"{YEAR}, immutable"
    assert final.headers["ETag"] != draft.headers["ETag"]
    assert "Last-Modified" in final.headers
    bodies = [await draft.read(), await final.read()]
    assert len(bodies[1]) < len(bodies[0])
    sizes = [Image.open(io.BytesIO(body)).size for body in bodies]
    assert sizes == [(300, 300)] * 2
    saved = server.metric("smartserve_bytes_saved_total", format="avif")
    assert saved == len(bodies[0]) - len(bodies[1])
    assert server.metric("smartserve_upgrade_seconds_count") == 1
    assert server.metric("smartserve_upgrade_lag_seconds_count") == 1


async def test_who_has_the_draft_gets_the_final_once_it_is_there(
    serve: Serve, library: Library
) -> None:
    server = await serve(upgrades=ASKED_ONLY, encoders=QUICK)
    path = thumbnail(library)
    tag = (await get(server, path)).headers["ETag"]
    await settled(server)
    final = await get(server, path, **{"If-None-Match": tag})
    assert (final.status, is_draft(final)) == (200, False)
    tag = final.headers["ETag"]
    unchanged = await get(server, path, **{"If-None-Match": tag})
    assert (unchanged.status, unchanged.headers["Cache-Control"]) == (304, YEAR)


async def test_who_has_the_draft_is_told_so_while_there_is_nothing_better(
    serve: Serve, library: Library
) -> None:
    server = await serve(upgrades=ASKED_ONLY)
    path = thumbnail(library)
    tag = (await get(server, path)).headers["ETag"]
    await held_back(server)
    unchanged = await get(server, path, **{"If-None-Match": f'"other", W/{tag}'})
    assert (unchanged.status, await unchanged.read()) == (304, b"")
    assert unchanged.headers["ETag"] == tag
    assert unchanged.headers["Cache-Control"] == BRIEF


async def held_back(server: Serving) -> int:
    """Stop the background worker in the middle of what it does; gives its process id."""
    await eventually(lambda: server.services.rendering.background_pool.pids, timeout_s=120)
    (pid,) = server.services.rendering.background_pool.pids
    os.kill(pid, signal.SIGSTOP)
    return pid


async def test_the_final_replaces_the_draft_on_disk_too(
    serve: Serve, library: Library, data_dir: Path
) -> None:
    server = await serve(upgrades=ASKED_ONLY, encoders=QUICK)
    path = thumbnail(library)
    draft = await get(server, path)
    await settled(server)
    final = await get(server, path)
    assert files(data_dir) == {f"{final.headers['ETag'][1:-1]}.avif"}
    assert draft.headers["ETag"] != final.headers["ETag"]
    other = await serve(upgrades=ASKED_ONLY, encoders=QUICK)
    found = await get(other, path)
    assert found.headers["Cache-Status"] == "smartserve; hit; detail=disk"
    assert (found.headers["ETag"], other.renders()) == (final.headers["ETag"], 0)


async def test_a_draft_found_on_disk_is_upgraded_after_its_next_hit(
    serve: Serve, library: Library, data_dir: Path
) -> None:
    path = thumbnail(library)
    first = await serve(upgrades={**ASKED_ONLY, "max_backlog": 1})
    await get(first, path)
    await held_back(first)
    await first.services.serving.renderer.drain()
    (left,) = files(data_dir)
    second = await serve(upgrades=ASKED_ONLY, encoders=QUICK)
    found = await get(second, path)
    assert (is_draft(found), found.headers["ETag"]) == (True, f'"{left[:-5]}"')
    assert second.renders() == 0
    await settled(second)
    assert not is_draft(await get(second, path))


async def test_a_final_that_is_quick_is_made_at_once(serve: Serve, library: Library) -> None:
    """By what the first one cost: until then nobody knows."""
    server = await serve(upgrades={**ASKED_ONLY, "budget_s": 30})
    assert is_draft(await get(server, thumbnail(library)))
    await settled(server)
    at_once = await get(server, thumbnail(library, "large"))
    assert at_once.headers["Cache-Status"] == "smartserve; fwd=uri-miss; stored; detail=render"
    assert at_once.headers["Cache-Control"] == YEAR
    assert server.metric("smartserve_upgrade_backlog") == 0


async def test_a_final_is_the_same_made_at_once_and_in_the_background(
    serve: Serve, library: Library, data_dir: Path
) -> None:
    path = thumbnail(library, "large")
    background = await serve(upgrades=ASKED_ONLY, renditions={"directory": made(data_dir, "a")})
    await get(background, path)
    await settled(background)
    at_once = await serve(
        upgrades={**ASKED_ONLY, "budget_s": 30}, renditions={"directory": made(data_dir, "b")}
    )
    await get(at_once, thumbnail(library))
    await settled(at_once)
    answers = [await get(server, path) for server in (background, at_once)]
    assert not any(map(is_draft, answers))
    assert answers[0].headers["ETag"] == answers[1].headers["ETag"]
    assert await answers[0].read() == await answers[1].read()


def made(data_dir: Path, name: str) -> str:
    (data_dir / name).mkdir()
    return str(data_dir / name)


async def test_head_says_what_get_would(serve: Serve, library: Library) -> None:
    server = await serve(upgrades=ASKED_ONLY)
    path = thumbnail(library)
    before = await server.client.head(path, headers={"Accept": CHROME})
    draft = await get(server, path)
    assert before.headers["ETag"] == draft.headers["ETag"]
    assert before.headers["Cache-Control"] == BRIEF
    await settled(server)
    after = await server.client.head(path, headers={"Accept": CHROME})
    final = await get(server, path)
    assert after.headers["ETag"] == final.headers["ETag"]
    assert after.headers["Content-Length"] == final.headers["Content-Length"]


async def test_a_range_of_a_draft_holds_by_its_own_etag(serve: Serve, library: Library) -> None:
    server = await serve(upgrades=ASKED_ONLY)
    path = thumbnail(library)
    draft = await get(server, path)
    await held_back(server)
    tag = draft.headers["ETag"]
    part = await get(server, path, Range="bytes=10-19", **{"If-Range": tag})
    assert (part.status, await part.read()) == (206, (await draft.read())[10:20])


async def test_the_background_worker_is_started_when_there_is_something_to_do(
    serve: Serve, library: Library
) -> None:
    server = await serve(upgrades=ASKED_ONLY)
    assert server.services.rendering.background_pool.statistics()["up"] == 0
    await get(server, thumbnail(library))
    await settled(server)
    assert server.services.rendering.background_pool.statistics()["up"] == 1


async def test_stopping_drops_the_queue_and_kills_what_runs(serve: Serve, library: Library) -> None:
    server = await serve(upgrades=ASKED_ONLY)
    for name in ("large", "photo", "logo"):
        await get(server, f"/serve/{library.ids[name]}?size=zoom")
    pid = await held_back(server)
    assert server.metric("smartserve_upgrade_backlog") == 3
    # A stopped worker would never end by itself.
    await server.services.serving.finals_queue.__aexit__(None, None, None)
    assert not Path(f"/proc/{pid}").exists()
    assert server.metric("smartserve_upgrade_backlog") == 0


@pytest.mark.parametrize("name", ["photo", "logo", "badge"])
@pytest.mark.parametrize("width", [16, 384])
async def test_the_smaller_of_two_formats_goes_out(
    serve: Serve, library: Library, name: str, width: int
) -> None:
    server = await serve(upgrades=ASKED_ONLY, encoders=QUICK)
    path = f"/serve/{library.ids[name]}?w={width}"
    accept = "image/avif,image/webp"
    lengths: dict[str, int] = {}
    for fmt in ("avif", "webp"):
        await get(server, f"{path}&format={fmt}")
        await settled(server)
        lengths[f"image/{fmt}"] = len(await (await get(server, f"{path}&format={fmt}")).read())
    await get(server, path, accept=accept)
    await settled(server)
    answer = await get(server, path, accept=accept)
    assert answer.headers["Content-Type"] == min(lengths, key=lambda fmt: lengths[fmt])
    if (name, width) == ("photo", 16):
        assert answer.headers["Content-Type"] == "image/webp", "the head of an AVIF is longer"
    assert len(await answer.read()) == min(lengths.values())
    assert Image.open(io.BytesIO(await answer.read())).format in ("AVIF", "WEBP")
    suffix = answer.headers["Content-Type"].removeprefix("image/")
    assert f'.{suffix}"' in answer.headers["Content-Disposition"]
    only = await get(server, path, accept="image/avif")
    assert only.headers["Content-Type"] == "image/avif"
    head = await server.client.head(path, headers={"Accept": accept})
    assert head.headers["Content-Type"] == answer.headers["Content-Type"]


async def test_a_smaller_format_may_be_left_alone(serve: Serve, library: Library) -> None:
    server = await serve(upgrades=ASKED_ONLY, encoders={"prefer_smallest": False})
    path = f"/serve/{library.ids['photo']}?w=16"
    await get(server, path)
    await settled(server)
    assert (await get(server, path)).headers["Content-Type"] == "image/avif"


async def test_the_rest_of_a_picture_is_made_once_one_of_it_was_asked_for(
    serve: Serve, library: Library
) -> None:
    server = await serve(upgrades={"enabled": True, "budget_s": 0}, encoders=QUICK)
    await get(server, thumbnail(library))
    await settled(server)
    renders = server.renders()
    for size in server.services.settings.sizes:
        for accept in (CHROME, "image/webp,*/*", "*/*"):
            answer = await get(server, f"/serve/{library.ids['photo']}?size={size}", accept=accept)
            assert not is_draft(answer)
            assert answer.headers["Cache-Control"] == YEAR
    assert server.renders() == renders
    assert server.metric("smartserve_upgrade_backlog") == 0


@pytest.mark.parametrize("fmt", ["avif", "webp", "jpeg"])
async def test_a_logo_does_not_ring(serve: Serve, library: Library, fmt: str) -> None:
    """On flat ground the final is within some levels of the original, or of a plain JPEG.

    A JPEG that rings less has more bytes than a plain one.
    """
    server = await serve(upgrades=ASKED_ONLY)
    path = f"/serve/{library.ids['logo']}?size=thumbnail&format={fmt}"
    await get(server, path)
    await settled(server)
    assert server.metric("smartserve_quality_target_missed_total") == 0
    exact = await get(server, path.replace(fmt, "png"))
    final, drawn = [
        Image.open(io.BytesIO(await answer.read())).convert("RGB")
        for answer in (await get(server, path), exact)
    ]
    # A level or two are the resampling's.
    most = 6.0
    if fmt == "jpeg":
        drawn.save(plain := io.BytesIO(), "JPEG", quality=80)
        most = ringing(Image.open(plain), drawn)
    assert ringing(final, drawn) <= most


def ringing(encoded: Image.Image, exact: Image.Image) -> float:
    """Return the largest mean deviation of 4 x 4 pixels on flat ground."""
    ours, expected = (np.asarray(one)[:300, :300].astype(int) for one in (encoded, exact))
    deviation = np.abs(ours - expected).mean(axis=2)
    windows = deviation.reshape(75, 4, 75, 4).mean(axis=(1, 3))
    flat = np.ptp(expected.reshape(75, 4, 75, 4, 3), axis=(1, 3)).max(axis=2) == 0
    assert flat.mean() > 0.5
    return float(windows[flat].max())


async def test_a_target_that_cannot_be_reached_is_counted(serve: Serve, library: Library) -> None:
    bounds = {"avif": {"final": {"min_quality": 1, "max_quality": 3}}}
    server = await serve(upgrades=ASKED_ONLY, encoders=bounds)
    await get(server, thumbnail(library))
    await settled(server)
    assert server.metric("smartserve_quality_target_missed_total") == 1


async def test_a_final_that_cannot_be_made_leaves_the_draft(
    serve: Serve, library: Library, data_dir: Path
) -> None:
    path = thumbnail(library)
    alone = await serve()
    draft = await get(alone, path)
    await alone.services.serving.renderer.drain()
    (original,) = (data_dir / "originals").rglob("kodak-*")
    original.unlink()
    server = await serve(upgrades=ASKED_ONLY)
    for _ in range(2):
        found = await get(server, path)
        assert (found.status, is_draft(found)) == (200, True)
        assert found.headers["ETag"] == draft.headers["ETag"]
        await settled(server)
    assert server.metric("smartserve_upgrades_failed_total") == 2


async def test_a_purge_is_not_undone_by_the_upgrade_under_way(
    serve: Serve, library: Library, data_dir: Path
) -> None:
    server = await serve(upgrades={**ASKED_ONLY, "all_sizes": True}, encoders=QUICK)
    await get(server, thumbnail(library))
    pid = await held_back(server)
    await server.services.serving.renderer.drain()
    await server.services.storage.purger.medium(library.ids["photo"])
    assert server.metric("smartserve_upgrade_backlog") <= 1, "the wishes went with it"
    os.kill(pid, signal.SIGCONT)
    await settled(server)
    assert files(data_dir) == set()
    assert server.metric("smartserve_cache_items", tier="memory") == 0


async def test_a_draft_stays_where_its_final_cannot_be_kept(
    serve: Serve, library: Library, data_dir: Path
) -> None:
    """The final does not fit: memory is off, and the disk takes no rendition of any size."""
    server = await serve(upgrades=ASKED_ONLY, encoders=QUICK, renditions={"memory_max_bytes": 0})
    path = thumbnail(library)
    draft = await get(server, path)
    pid = await held_back(server)
    await server.services.serving.renderer.drain()
    before = files(data_dir)
    temporary = data_dir / "renditions" / "tmp"
    temporary.rmdir()
    temporary.write_text("a file where the directory should be")
    os.kill(pid, signal.SIGCONT)
    await settled(server)
    assert files(data_dir) == before
    again = await get(server, path)
    assert (is_draft(again), again.headers["ETag"]) == (True, draft.headers["ETag"])
    assert server.renders() == 1


async def test_head_never_names_a_format_that_only_the_bytes_can_tell(
    serve: Serve, library: Library
) -> None:
    server = await serve(upgrades={**ASKED_ONLY, "budget_s": 30}, encoders=QUICK)
    await get(server, f"/serve/{library.ids['photo']}?w=16")
    await settled(server)
    path = f"/serve/{library.ids['large']}?w=16"
    head = await server.client.head(path, headers={"Accept": CHROME})
    whole = await get(server, path)
    assert whole.headers["Content-Type"] == "image/webp"
    assert whole.headers["Cache-Control"] == YEAR
    assert head.headers["ETag"] != whole.headers["ETag"]
    assert head.headers["Cache-Control"] == BRIEF


async def test_head_knows_the_drafts_etag_as_well(serve: Serve, library: Library) -> None:
    server = await serve(upgrades=ASKED_ONLY)
    path = thumbnail(library)
    tag = (await get(server, path)).headers["ETag"]
    await held_back(server)
    headers = {"Accept": CHROME, "If-None-Match": tag}
    assert (await server.client.head(path, headers=headers)).status == 304


async def test_many_sizes_are_made_in_more_than_one_order(serve: Serve, library: Library) -> None:
    """One order for all of them would be longer than a datagram."""
    sizes = {"detail": {"width": 60, "height": 60}}
    sizes |= {f"s{side}": {"width": side, "height": side} for side in range(16, 48)}
    server = await serve(upgrades={"enabled": True, "budget_s": 0}, encoders=QUICK, sizes=sizes)
    await get(server, f"/serve/{library.ids['photo']}")
    await settled(server)
    assert server.metric("smartserve_upgrades_failed_total") == 0
    for size in ("s16", "s47"):
        answer = await get(server, f"/serve/{library.ids['photo']}?size={size}")
        assert answer.headers["Cache-Control"] == YEAR
    assert server.renders() == 1


async def test_warm_gives_each_final_the_time_of_a_final(serve: Serve, library: Library) -> None:
    """The deadline of what visitors wait for is far too short for them."""
    server = await serve(workers={"deadline_s": 0.02}, upgrades={"enabled": True}, encoders=QUICK)
    warmed = await server.services.serving.warmer.warm(library.ids["photo"])
    assert (warmed.rendered, warmed.present) == (25, 0)
