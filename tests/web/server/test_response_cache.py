"""The response cache: what its key is, when an entry ends, and that strangers cannot fill it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from proxy.domain.formats import Format
from proxy.domain.media import Media, MediaFacts
from proxy.domain.render_plan import RenderPlan
from proxy.domain.request import Origin, Outcome, parse_request
from proxy.domain.variant import EncoderProfile, Geometry, SizeSpec, Variant
from proxy.settings import RenditionSettings
from proxy.storage.renditions.tiered_store import TieredStore
from proxy.telemetry.metrics import Metrics
from proxy.web.headers import ImageRoute
from proxy.web.server import response_cache
from proxy.web.server.response_cache import (
    CachedResponse,
    ImageTarget,
    ResolvedResponse,
    ResponseCache,
)
from tests.storage.renditions.variants import supports_nowait
from tests.support.server import CHROME, Library, Serve
from tests.support.waiting import eventually

SIZES = {name: SizeSpec(name, side, side) for name, side in (("detail", 640), ("thumbnail", 150))}
ORDER = (Format.AVIF, Format.WEBP, Format.JPEG)
AVIF = "image/avif,*/*"
BODY = b"x" * 1000
FACTS = MediaFacts("f" * 64, 1, "jpeg", 800, 600, False, 1, False, None, "a.jpg")  # noqa: FBT003


def a_media(media_id: int = 1) -> Media:
    updated_at = datetime(2026, 1, 1, tzinfo=UTC)
    return Media(
        media_id, 7, "product", "a.jpg", "image/jpeg", 1, "a.jpg", None, "completed", updated_at
    )


def a_plan(target: ImageTarget) -> RenderPlan:
    """A plan with both stages, whose variants differ by their encoder profile."""
    final = Variant(
        media_id=target.media_id,
        version=FACTS.content_hash,
        geometry=Geometry(100, 75, 100, 75),
        profile=EncoderProfile(Format.AVIF, (("Q", 50),)),
        background_removed=False,
        animated=False,
        recipe="r",
    )
    draft = replace(final, profile=EncoderProfile(Format.AVIF, (("Q", 40),)))
    return RenderPlan(a_media(target.media_id), FACTS, target.request, final, draft)


@dataclass
class Bench:
    """A response cache over a real memory store, and what it has called."""

    store: TieredStore
    now: float = 100.0
    fresh_until: float = math.inf
    finals: list[RenderPlan] = field(default_factory=list)
    max_items: int = 20_000
    client_hints: bool = False
    cache: ResponseCache = field(init=False)

    def __post_init__(self) -> None:
        self.cache = ResponseCache(
            store=self.store,
            metrics=Metrics(),
            fresh_until=lambda _media: self.fresh_until,
            parse_query=partial(parse_request, sizes=SIZES),
            order=ORDER,
            client_hints=self.client_hints,
            request_final=self.finals.append,
            max_items=self.max_items,
            clock=lambda: self.now,
        )

    def keep(
        self,
        raw: str,
        accept: str = AVIF,
        *,
        draft: bool = False,
        origin: Origin = Origin.MEMORY,
        lean: bool | None = None,
    ) -> RenderPlan:
        """Keep the response for a target; store its rendition in memory if it comes from there."""
        path, _, query = raw.partition("?")
        request = parse_request(query, sizes=SIZES, lean=lean)
        target = ImageTarget(ImageRoute.SERVE, int(path.rpartition("/")[2]), request)
        plan = a_plan(target)
        variant = plan.draft if draft and plan.draft is not None else plan.variant
        if origin is Origin.MEMORY and self.store.memory.peek(variant.digest) is None:
            self.store.memory.put(variant, BODY)
        outcome = Outcome(ImageRoute.SERVE, "detail", Format.AVIF, origin)
        missed = outcome._replace(source=Origin.NOT_MODIFIED)
        answer = ResolvedResponse(plan, variant, origin, len(BODY), b"200", outcome, b"304", missed)
        self.cache.keep(raw, accept, target, answer)
        return plan

    def find(
        self, raw: str, accept: str = AVIF, *, method: str = "GET", **headers: str
    ) -> CachedResponse | None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.cache.find(raw, method, CIMultiDict(named, Accept=accept))


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("renditions")
    return Bench(TieredStore(root, RenditionSettings()))


def test_unknown_parameters_find_the_same_entry_and_neither_flush_nor_grow_the_cache(
    bench: Bench,
) -> None:
    bench.keep("/serve/1?size=thumbnail")
    bench.keep("/serve/2?size=thumbnail")
    for number in range(20_000):
        target = f"/serve/1?size=thumbnail&utm_id={number:016d}"
        assert bench.find(target) is not None
        if number % 100 == 0:
            bench.keep(target)
    assert len(bench.cache._entries) == 2
    assert list(bench.cache._aliases) == [
        ("/serve/2?size=thumbnail", AVIF, None),
        ("/serve/1?size=thumbnail", AVIF, None),
    ]
    assert bench.find("/serve/1?size=thumbnail") is not None
    assert bench.find("/serve/2?size=thumbnail") is not None


def test_a_purge_of_everything_leaves_no_entry(bench: Bench) -> None:
    targets = [f"/serve/{one}?size=thumbnail" for one in (1, 2, 3)]
    for target in targets:
        bench.keep(target)
    bench.cache.clear()
    assert [bench.find(target) for target in targets] == [None] * 3
    assert not bench.cache._aliases


def test_versions_that_clients_make_up_do_not_grow_the_cache(bench: Bench) -> None:
    bench.keep("/serve/1?v=first")
    for number in range(1000):
        assert bench.find(f"/serve/1?v={number}") is not None
    assert len(bench.cache._entries) == 1
    assert len(bench.cache._aliases) <= 4
    assert bench.find("/serve/1") is None, "without v the response is not immutable"


@pytest.mark.parametrize(
    "same", ["/serve/1?size=thumbnail&dpr=1", "/serve/1?utm=x&size=detail&size=thumbnail&w="]
)
def test_targets_that_mean_the_same_share_an_entry(bench: Bench, same: str) -> None:
    bench.keep("/serve/1?size=thumbnail")
    assert bench.find(same) is not None


@pytest.mark.parametrize(
    "other",
    [
        "/serve/2?size=thumbnail",
        "/api/images/1?size=thumbnail",
        "/serve/1",
        "/serve/1?size=thumbnail&dpr=2",
        "/serve/1?size=thumbnail&format=avif",
        "/serve/1.avif?size=thumbnail",
        "/serve/1?size=thumbnail&bg=removed",
        "/serve/1?size=thumbnail&v=2",
        "/serve/1?size=wrong",
        "/serve/one?size=thumbnail",
        "/info/1?size=thumbnail",
    ],
)
def test_targets_that_mean_something_else_do_not(bench: Bench, other: str) -> None:
    bench.keep("/serve/1?size=thumbnail")
    assert bench.find(other) is None


def test_accept_headers_that_allow_the_same_formats_share_an_entry(bench: Bench) -> None:
    bench.keep("/serve/1", "image/avif,*/*")
    assert bench.find("/serve/1", "image/avif,image/png,*/*;q=0.9") is not None
    assert bench.find("/serve/1", "image/avif,image/webp,*/*") is None
    assert bench.find("/serve/1", "*/*") is None


def test_an_explicit_format_is_found_with_any_accept_header(bench: Bench) -> None:
    bench.keep("/serve/1?format=avif", "text/html")
    assert bench.find("/serve/1?format=avif", "*/*") is not None


def test_a_long_accept_header_is_not_kept(bench: Bench) -> None:
    bench.keep("/serve/1", "*/*," + "text/html," * 200)
    assert not bench.cache._entries


def test_the_oldest_entry_is_evicted_with_its_aliases(bench: Bench) -> None:
    small = Bench(bench.store, max_items=3)
    for media_id in range(1, 11):
        small.keep(f"/serve/{media_id}")
    assert [key[1] for key in small.cache._entries] == [8, 9, 10]
    assert [alias[0] for alias in small.cache._aliases] == ["/serve/8", "/serve/9", "/serve/10"]
    assert set(small.cache._by_media) == {8, 9, 10}


def test_a_changed_row_ends_all_its_entries(bench: Bench) -> None:
    bench.keep("/serve/1")
    bench.keep("/serve/1?size=thumbnail", draft=True)
    bench.keep("/serve/2")
    bench.cache.forget(1)
    assert bench.find("/serve/1") is None
    assert bench.find("/serve/1?size=thumbnail") is None
    assert bench.find("/serve/2") is not None
    assert [alias[0] for alias in bench.cache._aliases] == ["/serve/2"]


def test_an_entry_ends_when_its_row_may_not_be_used_any_more(bench: Bench) -> None:
    bench.fresh_until = bench.now + 10
    bench.keep("/serve/1")
    assert bench.find("/serve/1") is not None
    bench.now += 10
    assert bench.find("/serve/1") is None


async def test_an_evicted_rendition_is_not_served(bench: Bench) -> None:
    plan = bench.keep("/serve/1")
    bench.store.memory.delete(plan.variant)
    assert bench.find("/serve/1") is None


@pytest.mark.parametrize(
    "header", ["Range", "If_Modified_Since", "If_Match", "If_Unmodified_Since"]
)
def test_ranges_and_dates_are_left_to_the_handler(bench: Bench, header: str) -> None:
    bench.keep("/serve/1")
    assert bench.find("/serve/1", **{header: "x"}) is None
    assert bench.find("/serve/1", method="POST") is None


def test_a_client_that_has_the_final_gets_304(bench: Bench) -> None:
    plan = bench.keep("/serve/1")
    found = bench.find("/serve/1", If_None_Match=plan.variant.etag)
    assert found is not None
    assert (found.status, found.head, found.body) == (304, b"304", b"")


def test_an_evicted_final_is_not_confirmed_as_its_draft_may_be_served_now(bench: Bench) -> None:
    plan = bench.keep("/serve/1")
    bench.store.memory.delete(plan.variant)
    for etag in (plan.variant.etag, "*"):
        assert bench.find("/serve/1", If_None_Match=etag) is None


class TestDraft:
    def test_a_hit_is_answered_and_requests_the_final(self, bench: Bench) -> None:
        plan = bench.keep("/serve/1", draft=True)
        found = bench.find("/serve/1")
        assert found is not None
        assert (found.status, found.body) == (200, BODY)
        assert bench.finals == [plan]

    def test_head_does_not_request_the_final(self, bench: Bench) -> None:
        bench.keep("/serve/1", draft=True)
        assert bench.find("/serve/1", method="HEAD") is not None
        assert bench.finals == []

    def test_a_client_that_has_the_draft_gets_304_and_requests_the_final(
        self, bench: Bench
    ) -> None:
        plan = bench.keep("/serve/1", draft=True)
        assert plan.draft is not None
        found = bench.find("/serve/1", If_None_Match=plan.draft.etag)
        assert found is not None
        assert found.status == 304
        assert bench.finals == [plan]

    def test_a_client_that_has_the_final_is_left_to_the_handler(self, bench: Bench) -> None:
        plan = bench.keep("/serve/1", draft=True)
        assert bench.find("/serve/1", If_None_Match=plan.variant.etag) is None
        assert bench.finals == []

    def test_it_is_never_served_once_the_final_is_stored(self, bench: Bench) -> None:
        plan = bench.keep("/serve/1", draft=True)
        bench.store.memory.put(plan.variant, BODY)
        assert plan.draft is not None
        for etag in ("", plan.draft.etag):
            headers = {"If_None_Match": etag} if etag else {}
            assert bench.find("/serve/1", **headers) is None
        assert not bench.cache._entries
        assert not bench.cache._aliases

    async def test_it_is_never_served_once_it_is_purged(self, bench: Bench) -> None:
        plan = bench.keep("/serve/1", draft=True)
        assert plan.draft is not None
        bench.store.memory.purge(1)
        assert bench.find("/serve/1", If_None_Match=plan.draft.etag) is None
        assert bench.find("/serve/1") is None

    def test_its_entry_lasts_five_seconds_as_another_process_may_store_the_final(
        self, bench: Bench
    ) -> None:
        bench.keep("/serve/1", draft=True)
        bench.now += 4.9
        assert bench.find("/serve/1") is not None
        bench.now += 0.1
        assert bench.find("/serve/1") is None

    def test_the_final_replaces_its_entry(self, bench: Bench) -> None:
        bench.keep("/serve/1", draft=True)
        bench.keep("/serve/1")
        assert bench.find("/serve/1") is not None
        assert bench.finals == []
        assert len(bench.cache._entries) == 1


def test_the_plain_look_up_does_not_parse(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.keep("/serve/1?size=thumbnail")
    monkeypatch.setattr(bench.cache, "_parse_query", partial(pytest.fail, "parsed"))
    assert bench.find("/serve/1?size=thumbnail") is not None


@pytest.mark.parametrize("headers", [{"Save_Data": "on"}, {"ECT": "3g"}])
def test_clients_with_hints_and_those_without_have_entries_of_their_own(
    bench: Bench, headers: dict[str, str]
) -> None:
    hinted = Bench(bench.store, client_hints=True)
    hinted.keep("/serve/1?size=thumbnail", lean=False)
    for target in ("/serve/1?size=thumbnail", "/serve/1?size=thumbnail&utm=1"):
        assert hinted.find(target) is not None
        assert hinted.find(target, **headers) is None
    plan = hinted.keep("/serve/1?size=thumbnail", lean=True)
    assert plan.request.lean
    # By the remembered target, and by what another one means.
    for target in ("/serve/1?size=thumbnail", "/serve/1?size=thumbnail&utm=1"):
        assert hinted.find(target) is not None
        assert hinted.find(target, **headers) is not None
    assert {key[2].lean for key in hinted.cache._entries} == {True, False}


def test_disabled_hints_are_not_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.keep("/serve/1?size=thumbnail")
    monkeypatch.setattr(response_cache, "wants_less", partial(pytest.fail, "read"))
    assert bench.find("/serve/1?size=thumbnail", Save_Data="on") is not None
    assert bench.find("/serve/1?size=thumbnail&utm=1", Save_Data="on") is not None


def test_a_hit_names_the_ignored_parameters_of_its_own_request_only(bench: Bench) -> None:
    bench.keep("/serve/1?size=thumbnail&h=9&q=5")
    heads = {
        query: found.head
        for query in ("h=9&q=5", "utm=1", "blur=2&amp;Q=1", "v=", "h=9&q=5")
        if (found := bench.find(f"/serve/1?size=thumbnail&{query}")) is not None
    }
    assert heads == {
        "h=9&q=5": b"200Smartserve-Ignored: h, q\r\n",
        "utm=1": b"200",
        "blur=2&amp;Q=1": b"200Smartserve-Ignored: blur, q\r\n",
        "v=": b"200",
    }
    etag = a_plan(ImageTarget(ImageRoute.SERVE, 1, parse_request("", sizes=SIZES))).variant.etag
    valid = bench.find("/serve/1?size=thumbnail&fit=crop", If_None_Match=etag)
    assert valid is not None
    assert valid.head == b"304Smartserve-Ignored: fit\r\n"


def test_a_target_in_any_case_is_remembered_like_the_plain_one(bench: Bench) -> None:
    plan = bench.keep("/serve/1?size=thumbnail")
    for target in ("/serve/1?SIZE=Thumbnail", "/serve/1?v=&amp;size=thumbnail"):
        assert bench.find(target) is not None
        assert (target, AVIF, None) in bench.cache._aliases
    assert not plan.is_fallback


@dataclass
class OnDisk:
    """A kept response whose rendition is on disk; nothing is kept in memory."""

    bench: Bench
    plan: RenderPlan

    def find(self, **changes: Any) -> CachedResponse | None:
        """Return the response if it needs no thread."""
        return self.bench.find(TARGET, **changes)

    async def heat(self) -> None:
        """Store the rendition and request it until no thread is needed."""
        store = self.bench.store
        await store.put(store.ticket(self.plan.variant), BODY)
        headers = CIMultiDict(Accept=AVIF)
        for _ in range(2):
            found = await self.bench.cache.get(TARGET, "GET", headers)
            assert found is not None
            assert found.body == BODY
        await eventually(lambda: self.plan.variant.digest in store.disk._hot_files._files)


TARGET = "/serve/1?size=thumbnail"


@pytest.fixture
async def on_disk(tmp_path: Path) -> AsyncIterator[OnDisk]:
    supports_nowait(tmp_path)
    async with TieredStore(tmp_path / "renditions", RenditionSettings(memory_max_bytes=0)) as store:
        bench = Bench(store)
        yield OnDisk(bench, bench.keep(TARGET, origin=Origin.DISK))


async def test_a_hot_rendition_on_disk_is_found_without_a_wait(on_disk: OnDisk) -> None:
    assert on_disk.find() is None, "nothing is stored"
    await on_disk.heat()
    found = on_disk.find()
    assert found is not None
    assert (found.status, found.head, found.body) == (200, b"200", BODY)
    assert found.outcome.source is Origin.DISK
    etag = on_disk.plan.variant.etag
    not_modified = on_disk.find(If_None_Match=etag)
    assert not_modified is not None
    assert (not_modified.status, not_modified.body) == (304, b"")


async def test_a_hot_rendition_is_left_to_the_handler_where_it_decides(on_disk: OnDisk) -> None:
    await on_disk.heat()
    assert on_disk.find(method="HEAD") is None
    assert on_disk.find(Range="bytes=0-1") is None
    assert on_disk.bench.cache.find(TARGET, "GET", CIMultiDict(Accept=AVIF), longest=999) is None
    on_disk.bench.fresh_until = 0
    on_disk.bench.cache.forget(1)
    assert on_disk.find() is None


async def test_a_purged_or_replaced_hot_rendition_is_never_found(on_disk: OnDisk) -> None:
    await on_disk.heat()
    await on_disk.bench.store.purge(1)
    assert on_disk.find() is None
    assert on_disk.find(If_None_Match=on_disk.plan.variant.etag) is None
    await on_disk.heat()
    store = on_disk.bench.store
    await store.put(store.ticket(on_disk.plan.variant), b"of another length")
    assert on_disk.find() is None


async def test_a_response_that_is_forgotten_while_its_file_is_read_is_not_found(
    on_disk: OnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, store = on_disk.bench.cache, on_disk.bench.store
    await store.put(store.ticket(on_disk.plan.variant), BODY)
    get = store.get

    async def slow(*args: Any) -> Any:
        found = await get(*args)
        cache.forget(1)
        return found

    monkeypatch.setattr(store, "get", slow)
    assert await cache.get(TARGET, "GET", CIMultiDict(Accept=AVIF)) is None


@pytest.mark.parametrize("query", ["size=small", "size=thumbnail&v=1", "w=320&h=9", "bg=removed"])
@pytest.mark.parametrize("route", ["serve", "api/images"])
async def test_a_stored_image_without_an_entry_is_sent_as_the_handler_sends_it(
    serve: Serve, library: Library, monkeypatch: pytest.MonkeyPatch, query: str, route: str
) -> None:
    server = await serve()
    cache = server.surface.runner.pipeline._response_cache
    stored, store = cache._stored, server.services.storage.renditions
    assert stored is not None
    found: list[object] = []
    find = stored.lookup.find

    async def spied(*key: Any) -> Any:
        found.append(await find(*key))
        return found[-1]

    monkeypatch.setattr(stored.lookup, "find", spied)
    target = f"/{route}/{library.ids['photo']}?{query}"
    etag = (await server.client.get(target, headers={"Accept": CHROME})).headers["ETag"]
    await server.services.serving.renderer.drain()
    answers = []
    for cache._stored in (stored, None):
        for method, condition in (("GET", ""), ("HEAD", ""), ("GET", etag)):
            store.memory.clear()
            for key in list(cache._entries):
                cache._drop(key)
            found.clear()
            headers = {"Accept": CHROME, **({"If-None-Match": condition} if condition else {})}
            answer = await server.client.request(method, target, headers=headers)
            sent = {name.lower(): text for name, text in answer.headers.items()}
            for varying in ("date", "x-request-id", "server-timing"):
                sent.pop(varying, None)
            answers.append((answer.status, sent, await answer.read()))
            # The image whose background cannot be removed has the same rendition.
            assert bool(found and found[-1]) == (cache._stored is not None)
    assert answers[:3] == answers[3:]
    assert answers[0][1]["cache-status"] == "smartserve; hit; detail=disk"
    assert [status for status, *_ in answers[:3]] == [200, 200, 304]
