"""Wiring: the only place where rooms are made and joined; server and command line begin here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace

import structlog

from proxy.analysing import Analyst
from proxy.costs import Costs
from proxy.database.cache import CachedMediaDatabase
from proxy.database.sql import SqlMediaDatabase, open_database
from proxy.database.upgrade import pending, upgrade
from proxy.delivery import Delivery
from proxy.errors import CapacityError, ConfigurationError, DatabaseUnavailable
from proxy.finishing import Finisher
from proxy.floors import FLOORS
from proxy.ingest.importing import Importer
from proxy.inspection import Inspector
from proxy.jobs import Hello, Limits
from proxy.logs import AccessLog
from proxy.media import Media
from proxy.metrics import Metrics
from proxy.planning import Planner, Rules
from proxy.purging import Purger
from proxy.readings import Sources, readings
from proxy.renditions.tiered import TieredStore
from proxy.settings import NO_KEY, Settings, admin_key
from proxy.sources.local import LocalSources
from proxy.sources.sweeping import sweeping
from proxy.starting import check_worker
from proxy.upgrading import Upgrader
from proxy.variant import recipe
from proxy.vision.opening import open_providers
from proxy.vision.tesseract import TextReader
from proxy.warming import Warmer
from proxy.web.admin import AdminHandler
from proxy.web.app import create_app
from proxy.web.auth import FailureLimit, Guard, Refusal
from proxy.web.frontdesk import Frontdesk
from proxy.web.health import Health
from proxy.web.hot import HotAnswers
from proxy.web.pulse import Pulse
from proxy.web.runner import Runner
from proxy.web.serve import PictureHandler
from proxy.workers.admission import Admission
from proxy.workers.pool import WorkerPool
from proxy.workers.quarantine import Quarantine
from proxy.workshop import Workshop

_LATE_S = 0.02
"""From when on the loop is late: some twenty requests then wait for their turn. A machine that is
busy with something else makes it a few milliseconds late without that."""
_PREPARE_AGAIN_S = 1.0
"""How often a database that was away at the start is looked for."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Storage:
    """The rooms that keep things: database, originals, renditions."""

    catalogue: SqlMediaDatabase
    database: CachedMediaDatabase
    sources: LocalSources
    store: TieredStore
    forgetters: list[Callable[[int], None]]
    """Called with each medium that was purged, here or by another process."""
    purger: Purger

    async def purge(self, media_id: int) -> int:
        """Forget all that was made of a medium and learned about it; gives the files dropped."""
        return await self.purger.medium(media_id)

    async def current(self, media_id: int) -> Media | None:
        """The row as it stands in the database now."""
        self.database.forget(media_id)
        return await self.database.find(media_id)


@dataclass(frozen=True, slots=True)
class Rooms:
    """Everything that works, joined."""

    settings: Settings
    storage: Storage
    pool: WorkerPool
    admission: Admission
    inspector: Inspector
    delivery: Delivery
    importer: Importer
    warmer: Warmer
    metrics: Metrics
    upgrader: Upgrader
    background: WorkerPool
    workshop: Workshop
    limits: Limits
    pulse: Pulse
    """Of the loop; beats while the server listens."""


@asynccontextmanager
async def database_prepared(settings: Settings) -> AsyncIterator[None]:
    """Bring the schema up to date, or refuse to start with one that is not.

    A database that cannot be reached is no reason not to start: it is prepared within the block
    once it is back, and pictures are served from then on.

    Raises:
        ConfigurationError: the schema is old, and `upgrade_on_start` is off or not allowed.
    """
    later: list[asyncio.Task[None]] = []
    try:
        await _prepare_database(settings)
    except DatabaseUnavailable as error:
        log.warning("database_unavailable_at_start", cause=repr(error.__cause__))
        later.append(asyncio.create_task(_prepare_later(settings)))
    try:
        yield
    finally:
        for task in later:
            task.cancel()
        await asyncio.gather(*later, return_exceptions=True)


async def _prepare_later(settings: Settings) -> None:
    """Try until it is done, by this process or by `db upgrade`; why it may not be is told once."""
    told: tuple[str, ...] = ()
    while True:
        await asyncio.sleep(_PREPARE_AGAIN_S)
        try:
            await _prepare_database(settings)
        except DatabaseUnavailable:
            continue
        except ConfigurationError as error:
            if error.faults != told:
                log.warning("database_not_prepared", faults=error.faults)
            told = error.faults
        else:
            return


async def _prepare_database(settings: Settings) -> None:
    """As `database_prepared`; raises DatabaseUnavailable where it cannot be reached."""
    url, section = settings.database_url, settings.database
    if not await pending(url, section):
        return
    advice = "run 'smartserve db upgrade' with an account that may change it"
    if not section.upgrade_on_start:
        raise ConfigurationError([f"database: its schema is not up to date; {advice}"])
    try:
        await upgrade(url, section)
    except DatabaseUnavailable as error:
        cause = error.__cause__
        raise ConfigurationError(
            [f"database: its schema cannot be brought up to date ({cause}); {advice}"]
        ) from error


async def ask_worker(settings: Settings) -> Hello:
    """What a worker says of itself; it is started for that and ended again.

    Raises:
        ConfigurationError: none comes up.
    """
    one = settings.model_copy(update={"workers": settings.workers.model_copy(update={"count": 1})})
    async with _pool(one) as pool:
        return pool.hello


@asynccontextmanager
async def open_storage(settings: Settings) -> AsyncIterator[Storage]:
    """Open database, originals and renditions; close them in the end."""
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(_make_directories, settings)
        await stack.enter_async_context(database_prepared(settings))
        catalogue = await stack.enter_async_context(
            open_database(settings.database_url, settings.database)
        )
        database = CachedMediaDatabase(catalogue, settings.database)
        stack.push_async_callback(database.close)
        sources = LocalSources(settings.storage_root, settings.storage)
        stack.push_async_callback(sources.aclose)
        await stack.enter_async_context(sweeping(str(settings.storage_root)))
        forgetters: list[Callable[[int], None]] = [database.forget]

        def forget(media_id: int) -> None:
            for one in forgetters:
                one(media_id)

        store = TieredStore(settings.rendition_directory, settings.renditions, on_purge=forget)
        await stack.enter_async_context(store)
        purger = Purger(rows=database, catalogue=catalogue, store=store, forgetters=forgetters)
        yield Storage(catalogue, database, sources, store, forgetters, purger)


def _make_directories(settings: Settings) -> None:
    """What lies in the data directory is made; places of the operator's own have to be there."""
    for own, path in (
        (not settings.database.url, settings.data_path),
        (not settings.storage.root, settings.storage_root),
        (not settings.renditions.directory, settings.rendition_directory),
    ):
        if own:
            with suppress(OSError):
                path.mkdir(parents=True, exist_ok=True)


@asynccontextmanager
async def open_rooms(
    settings: Settings, *, floors: Mapping[str, str] = FLOORS
) -> AsyncIterator[Rooms]:
    """Open everything and start the workers; end what is under way and close it in the end.

    Raises:
        ConfigurationError: the settings or the machine are not fit, or libvips is below its floor.
    """
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(open_storage(settings))
        pool = await stack.enter_async_context(_pool(settings))
        check_worker(pool.hello, floors)
        rooms = _join(settings, storage, pool)
        await stack.enter_async_context(rooms.upgrader)
        stack.push_async_callback(rooms.inspector.aclose)
        stack.push_async_callback(rooms.delivery.aclose)
        stack.callback(rooms.admission.close)
        yield rooms


def _join(settings: Settings, storage: Storage, pool: WorkerPool) -> Rooms:
    admission = Admission(settings.workers)
    workshop = _workshop(settings, storage, pool, admission)
    metrics, costs, pulse = Metrics(), Costs(), Pulse()
    rules = _rules(settings, pool.hello)
    planner = Planner(rules)
    inspector = Inspector(database=storage.database, workshop=workshop, limits=rules.limits)
    background = _background(settings)
    idle = _workshop(settings, storage, background, Admission(settings.workers))
    upgrader = Upgrader(
        settings=settings.upgrades,
        pool=background,
        finisher=_finisher(settings, rules, storage, idle),
        planner=planner,
        costs=costs,
        telemetry=metrics,
        learn=_learner(storage, inspector),
    )
    storage.forgetters.append(upgrader.forget)
    delivery = Delivery(
        store=storage.store,
        inspector=inspector,
        workshop=workshop,
        telemetry=metrics,
        planner=planner,
        costs=costs,
        budget_s=settings.upgrades.budget_s,
        upgrade=upgrader.ask,
        pressure=_pressure(admission, pulse),
    )
    return Rooms(
        settings=settings,
        storage=storage,
        pool=pool,
        admission=admission,
        inspector=inspector,
        delivery=delivery,
        importer=_importer(settings, rules, storage, pool, admission),
        warmer=Warmer(
            database=storage.database,
            inspector=inspector,
            planner=planner,
            finisher=_finisher(settings, rules, storage, workshop),
        ),
        metrics=metrics,
        upgrader=upgrader,
        background=background,
        workshop=workshop,
        limits=rules.limits,
        pulse=pulse,
    )


def _pressure(admission: Admission, pulse: Pulse) -> Callable[[], CapacityError | None]:
    """Turn misses away at once while the queue is full and the loop is late as well.

    To find what may stand in, or to refuse in form, would make all who come after wait the longer,
    and hits with them.
    """

    def pressure() -> CapacityError | None:
        late = admission.full and pulse.late_s > _LATE_S
        return admission.turn_away() if late else None

    return pressure


@asynccontextmanager
async def open_analyst(rooms: Rooms) -> AsyncIterator[Analyst]:
    """Who tells what is known of a picture, with the providers that have a key.

    Raises:
        ConfigurationError: a key file cannot be read.
    """
    section = rooms.settings.vision
    async with open_providers(section) as providers:
        yield Analyst(
            workshop=rooms.workshop,
            limits=rooms.limits,
            providers=providers,
            reader=TextReader(section.text),
            picture_side=section.picture_side,
        )


def _importer(
    settings: Settings, rules: Rules, storage: Storage, pool: WorkerPool, admission: Admission
) -> Importer:
    return Importer(
        catalogue=storage.catalogue,
        originals=storage.sources,
        pool=pool,
        admission=admission,
        limits=rules.limits,
        max_bytes=settings.storage.max_original_bytes,
    )


def _learner(storage: Storage, inspector: Inspector) -> Callable[[int], Awaitable[None]]:
    async def learn(media_id: int) -> None:
        media = await storage.current(media_id)
        if media is not None and media.servable:
            await inspector.learn(media)

    return learn


def _workshop(
    settings: Settings, storage: Storage, pool: WorkerPool, admission: Admission
) -> Workshop:
    """A way from pictures to the workers of a pool, with a quarantine of its own."""
    quarantine = Quarantine(
        failure_s=settings.lifetimes.failure_s, quarantine_s=settings.workers.quarantine_s
    )
    return Workshop(sources=storage.sources, pool=pool, admission=admission, quarantine=quarantine)


def _finisher(settings: Settings, rules: Rules, storage: Storage, workshop: Workshop) -> Finisher:
    return Finisher(
        store=storage.store,
        workshop=workshop,
        limits=rules.limits,
        copyright_notice=rules.copyright_notice,
        deadline_s=settings.upgrades.deadline_s,
    )


def _pool(settings: Settings) -> WorkerPool:
    return WorkerPool(
        settings.workers,
        source_types=settings.limits.source_types,
        max_output_bytes=settings.renditions.max_rendition_bytes,
        max_cpu_s=_max_cpu_s(settings),
    )


def _background(settings: Settings) -> WorkerPool:
    """One worker at idle priority."""
    return WorkerPool(
        settings.workers.model_copy(update={"count": 1}),
        source_types=settings.limits.source_types,
        max_output_bytes=settings.renditions.max_rendition_bytes,
        max_cpu_s=_max_cpu_s(settings),
        idle=True,
    )


def _max_cpu_s(settings: Settings) -> float:
    """Beyond every deadline: it is for a server that is not there to see to them."""
    return 2 * max(settings.workers.deadline_s, settings.upgrades.deadline_s)


def _rules(settings: Settings, hello: Hello) -> Rules:
    """What decides a variant; of the types that the settings allow, those that libvips opens."""
    limits = settings.limits.to_limits()
    loadable = tuple(kind for kind in limits.source_types if kind in hello.source_types)
    notice = settings.encoders.copyright or None
    encoders = settings.encoders
    return Rules(
        stages=encoders.stages() if settings.upgrades.enabled else encoders.single_stages(),
        order=settings.encoders.order,
        sizes=settings.size_specs(),
        limits=replace(limits, source_types=loadable),
        recipe=recipe(hello.libvips, copyright_notice=notice),
        copyright_notice=notice,
        smallest_wins=encoders.smallest_wins,
    )


@dataclass(frozen=True, slots=True)
class Surface:
    """The HTTP side of the rooms."""

    runner: Runner
    health: Health
    access_log: AccessLog | None


def build_surface(rooms: Rooms) -> Surface:
    """Join the rooms with the HTTP surface and the metrics."""
    settings, storage = rooms.settings, rooms.storage
    hot = HotAnswers(
        store=storage.store,
        metrics=rooms.metrics,
        fresh_until=_fresh_until(storage.database),
    )
    storage.forgetters.append(hot.forget)
    health = Health(
        {
            "database": storage.database.ping,
            "storage": storage.sources.check,
            "renditions": storage.store.check,
            "workers": rooms.pool.check,
        }
    )
    hello = rooms.pool.hello
    rooms.metrics.build(libvips=hello.libvips, codecs=hello.codecs)
    rooms.metrics.sandbox(hello.sandbox)
    pictures = PictureHandler(
        database=storage.database,
        delivery=rooms.delivery,
        hot=hot,
        telemetry=rooms.metrics,
        sizes=settings.size_specs(),
        lifetimes=settings.lifetimes,
    )
    access_log = AccessLog(settings.log) if settings.log.access else None
    frontdesk = Frontdesk(hot=hot, metrics=rooms.metrics, access_log=access_log)
    app = create_app(
        settings, pictures=pictures, health=health, metrics=rooms.metrics, admin=_admin(rooms)
    )
    runner = Runner(app, frontdesk, settings.server, rooms.pulse)
    rooms.metrics.watch(readings(_statistics(rooms, runner)))
    return Surface(runner, health, access_log)


def _admin(rooms: Rooms) -> AdminHandler | None:
    section = rooms.settings.admin
    if not section.enabled:
        return None
    guard = Guard(
        admin_key(section),
        advice=f"no key is set: {NO_KEY}",
        limit=FailureLimit(max_failures=section.max_failures, window_s=section.failure_window_s),
        on_refusal=rooms.metrics.refusals(Refusal),
    )
    sizes = rooms.settings.size_specs()
    return AdminHandler(guard=guard, purger=rooms.storage.purger, sizes=sizes)


def _fresh_until(database: CachedMediaDatabase) -> Callable[[Media], float]:
    def until(media: Media) -> float:
        known = database.peek(media.id)
        if known is None or known[0].updated_at != media.updated_at:
            return 0.0
        return known[1]

    return until


def _statistics(rooms: Rooms, runner: Runner) -> Sources:
    return Sources(
        connections=runner.doorkeeper.statistics,
        admission=rooms.admission.statistics,
        pool=rooms.pool.statistics,
        delivery=rooms.delivery.statistics,
        upgrader=rooms.upgrader.statistics,
        originals=rooms.storage.sources.statistics,
        queries=rooms.storage.catalogue.statistics,
        rows=rooms.storage.database.statistics,
        store=rooms.storage.store,
    )
