"""The house as it is built: arrows point down, rooms keep to themselves, libvips stays outside."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import pytest

Graph = Mapping[str, frozenset[str]]
"""Modules by their full names, and what each imports: modules of ours and of others."""

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "proxy"
ROOMS = (
    *("database", "sources", "renditions", "workers", "imaging", "sandbox", "vision"),
    *("mainapi", "uploads", "visitor"),
)
LAYERS: Mapping[int, tuple[str, ...]] = {
    0: (
        *("", "errors", "formats", "media", "geometry", "query", "variant", "negotiation"),
        *("findings", "jobs", "analysis", "floors", "pending", "intake", "filenames"),
        "traces",
    ),
    1: ("settings", "owners", "descent", "descriptors", "aside"),
    2: ROOMS,
    3: (
        *("workshop", "inspection", "planning", "costs", "finishing", "delivery"),
        *("rendering", "delivered"),
        *("upgrading", "warming", "purging", "ingest", "analysing", "describing"),
        *("uploading", "replacing", "tidying", "starting", "doctor"),
    ),
    4: (
        *("metrics", "logs", "readings", "wiring", "web", "cli", "worker"),
        *("supervision", "tracing"),
    ),
}
LAYER_OF = {part: layer for layer, parts in LAYERS.items() for part in parts}
"""By the name below ``proxy``; the empty name is the package itself, which holds the version."""

BROUGHT_ALONG = frozenset({"multidict", "yarl"})
"""Of aiohttp: its headers and addresses are of these types, and it always has them."""

OWNERS: Mapping[str, tuple[str, ...]] = {
    "prometheus_client": ("metrics", "visitor"),
    "opentelemetry": ("tracing",),
    "aiohttp": ("web", "wiring", "vision", "mainapi", "visitor"),
    "pyvips": ("imaging",),
    "proxy.rendering.worker.imaging": ("imaging", "worker"),
    "pyseccomp": ("sandbox",),
    "proxy.rendering.worker.sandbox": ("sandbox", "worker"),
}
"""Who may import what. `proxy.rendering.worker.__main__` is the entry of the worker process, where pixels are."""


def part_of(module: str) -> str:
    """The part of the house that a module of ours belongs to: ``proxy.web.routes`` to ``web``."""
    return module.partition(".")[2].partition(".")[0]


def is_ours(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def read_graph(root: Path = ROOT) -> Graph:
    """The imports of every module below ``proxy``, those for type checkers only included."""
    files = {_name(path, root): path for path in (root / PACKAGE).rglob("*.py")}
    return {
        name: frozenset(_imports(ast.parse(path.read_text()), name, set(files)))
        for name, path in files.items()
    }


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST, module: str, modules: set[str]) -> Iterator[str]:
    """Full names of what is imported; ``from package import module`` is that module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules else node.module


def faults(graph: Graph) -> list[str]:
    """Every edge that should not be, as a sentence."""
    return sorted(
        {
            *_homeless(graph),
            *_upward(graph),
            *_sideways(graph),
            *_foreign(graph),
            *_not_standard(graph),
            *_circles(graph),
        }
    )


def _edges(graph: Graph) -> Iterator[tuple[str, str]]:
    return ((module, other) for module, others in graph.items() for other in others)


def _own_edges(graph: Graph) -> Iterator[tuple[str, str]]:
    """Edges between two different parts of the house that have a place in it."""
    for module, other in _edges(graph):
        here, there = part_of(module), part_of(other)
        if is_ours(other) and here != there and here in LAYER_OF and there in LAYER_OF:
            yield module, other


def _homeless(graph: Graph) -> Iterable[str]:
    return (f"{module} is in no layer" for module in graph if part_of(module) not in LAYER_OF)


def _upward(graph: Graph) -> Iterable[str]:
    return (
        f"{module} imports {other}, which is above it"
        for module, other in _own_edges(graph)
        if LAYER_OF[part_of(module)] < LAYER_OF[part_of(other)]
    )


def _sideways(graph: Graph) -> Iterable[str]:
    return (
        f"{module} imports {other}, which is another room"
        for module, other in _own_edges(graph)
        if part_of(module) in ROOMS and part_of(other) in ROOMS
    )


def _foreign(graph: Graph) -> Iterable[str]:
    return (
        f"{module} imports {other}, which only {' and '.join(owners)} may"
        for module, other in _edges(graph)
        for package, owners in OWNERS.items()
        if _within(other, package) and part_of(module) not in owners
    )


def _not_standard(graph: Graph) -> Iterable[str]:
    return (
        f"{module} imports {other}, which is not of the standard library"
        for module, other in _edges(graph)
        if LAYER_OF.get(part_of(module)) == 0
        if not is_ours(other) and other.partition(".")[0] not in sys.stdlib_module_names
    )


def _circles(graph: Graph) -> Iterable[str]:
    """Modules that import each other, however long the way: what no order of loading can settle."""
    left = {
        module: {other for other in others if other in graph} for module, others in graph.items()
    }
    while leaves := [module for module, others in left.items() if not others]:
        for leaf in leaves:
            del left[leaf]
        for others in left.values():
            others.difference_update(leaves)
    return (f"{module} is in a circle, or above one" for module in left)


def made_up(**imports: str) -> Graph:
    """A small house: ``web__app="proxy.serving.delivery aiohttp"`` is what ``proxy.web.routes`` imports."""
    return {
        f"{PACKAGE}.{name.replace('__', '.')}": frozenset(others.split())
        for name, others in imports.items()
    }


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_graph()


def test_the_house_has_no_faults(graph: Graph) -> None:
    assert faults(graph) == []


def test_every_layer_is_lived_in(graph: Graph) -> None:
    assert {part_of(module) for module in graph} == set(LAYER_OF)


@pytest.mark.parametrize("package", OWNERS)
def test_what_only_some_parts_may_import_is_imported_by_them(package: str, graph: Graph) -> None:
    assert any(_within(other, package) for _, other in _edges(graph))


def test_a_house_in_order_has_no_faults() -> None:
    assert (
        faults(
            made_up(
                errors="__future__ enum proxy",
                settings="proxy.domain.errors pydantic",
                sources="proxy.domain.errors",
                sources__local="proxy.storage.originals proxy.settings",
                imaging__load="pyvips proxy.domain.errors",
                delivery="proxy.storage.originals.local_store",
                web__app="aiohttp.web proxy.serving.delivery",
                wiring="proxy.web.routes proxy.storage.originals.local_store aiohttp",
                worker="proxy.rendering.worker.imaging.load",
            )
        )
        == []
    )


@pytest.mark.parametrize(
    ("house", "fault"),
    [
        (
            made_up(settings="proxy.storage.originals", sources=""),
            "proxy.settings imports proxy.storage.originals, which is above it",
        ),
        (
            made_up(delivery="proxy.web.cache_headers", web__caching=""),
            "proxy.serving.delivery imports proxy.web.cache_headers, which is above it",
        ),
        (
            made_up(errors="proxy.settings", settings=""),
            "proxy.domain.errors imports proxy.settings, which is above it",
        ),
        (
            made_up(sources__local="proxy.storage.renditions.disk_store", renditions__disk=""),
            "proxy.storage.originals.local_store imports proxy.storage.renditions.disk_store, which is another room",
        ),
        (
            made_up(database="proxy.rendering.pool", workers=""),
            "proxy.storage.database imports proxy.rendering.pool, which is another room",
        ),
        (
            made_up(cli="proxy.rendering.worker.imaging", imaging=""),
            "proxy.cli imports proxy.rendering.worker.imaging, which only imaging and worker may",
        ),
        (
            made_up(wiring="proxy.rendering.worker.imaging.load", imaging__load=""),
            "proxy.app imports proxy.rendering.worker.imaging.load, which only imaging and worker may",
        ),
        (
            made_up(delivery="prometheus_client"),
            "proxy.serving.delivery imports prometheus_client, which only metrics and visitor may",
        ),
        (
            made_up(readings="prometheus_client.core"),
            "proxy.app.collectors imports prometheus_client.core, which only metrics and visitor may",
        ),
        (
            made_up(delivery="aiohttp.web"),
            "proxy.serving.delivery imports aiohttp.web, which only "
            + " and ".join(OWNERS["aiohttp"])
            + " may",
        ),
        (
            made_up(cli="aiohttp"),
            "proxy.cli imports aiohttp, which only " + " and ".join(OWNERS["aiohttp"]) + " may",
        ),
        (
            made_up(worker="pyvips"),
            "proxy.rendering.worker.__main__ imports pyvips, which only imaging may",
        ),
        (
            made_up(formats="numpy.typing"),
            "proxy.domain.formats imports numpy.typing, which is not of the standard library",
        ),
        (made_up(utils=""), "proxy.utils is in no layer"),
        (made_up(utils__text=""), "proxy.utils.text is in no layer"),
    ],
)
def test_a_fault_is_found(house: Graph, fault: str) -> None:
    assert faults(house) == [fault]


@pytest.mark.parametrize(
    "house",
    [
        made_up(variant="proxy.domain.worker_protocol", jobs="proxy.domain.variant"),
        made_up(web__a="proxy.web.b", web__b="proxy.web.c", web__c="proxy.web.a"),
        made_up(
            sources="proxy.storage.originals.local_store", sources__local="proxy.storage.originals"
        ),
        made_up(errors="proxy.domain.errors"),
    ],
)
def test_a_circle_is_found(house: Graph) -> None:
    assert faults(house) == sorted(f"{module} is in a circle, or above one" for module in house)


def test_imports_are_read_in_all_their_forms(tmp_path: Path) -> None:
    (tmp_path / "proxy" / "web").mkdir(parents=True)
    (tmp_path / "proxy" / "__init__.py").touch()
    (tmp_path / "proxy" / "web" / "__init__.py").touch()
    (tmp_path / "proxy" / "web" / "app.py").write_text(
        "from typing import TYPE_CHECKING\n"
        "import os.path, json as text\n"
        "from proxy import web, errors\n"
        "from proxy.web import app, SOMETHING\n"
        "if TYPE_CHECKING:\n    from aiohttp import web as aio\n"
        "def late():\n    import pyvips\n"
    )
    assert read_graph(tmp_path) == {
        "proxy": frozenset(),
        "proxy.web": frozenset(),
        "proxy.web.routes": frozenset(
            {
                "typing",
                "os.path",
                "json",
                "proxy",
                "proxy.web",
                "proxy.web.routes",
                "aiohttp",
                "pyvips",
            }
        ),
    }


def test_no_command_loads_libvips() -> None:
    script = (
        "import sys\n"
        "from proxy.cli import load\n"
        "load()\n"
        "assert 'proxy.app.web' in sys.modules\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'pyvips', '_libvips', 'proxy', 'PIL', 'numpy'}))\n"
        "maps = open('/proc/self/maps').read()\n"
        "print('libvips' in maps)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["['proxy']", "False"]


def _requirements() -> Iterable[str]:
    """Those of the server, and of what may be installed with it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return chain(project["dependencies"], *project["optional-dependencies"].values())


def test_what_is_imported_is_asked_for_in_pyproject() -> None:
    """Else it is there by chance, of a tool that only developers have."""
    declared = {
        re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")
        for requirement in _requirements()
    }
    imported = {name.partition(".")[0] for names in read_graph().values() for name in names}
    others = imported - {PACKAGE, *sys.stdlib_module_names}
    providers = importlib.metadata.packages_distributions()
    missing = {
        name
        for name in others
        if not declared & {provider.lower().replace("_", "-") for provider in providers[name]}
    }
    assert missing <= BROUGHT_ALONG
