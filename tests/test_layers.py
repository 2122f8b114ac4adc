"""The layers of `proxy`: which package may import which, checked on the imports themselves."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

import pytest

Graph = Mapping[str, frozenset[str]]
"""The full name of each module, and the full names of what it imports."""

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "proxy"

LINES: tuple[tuple[str, ...], ...] = (
    ("domain",),
    ("settings",),
    ("runtime",),
    ("telemetry",),
    ("storage", "rendering"),
    ("serving",),
    ("analysis", "metadata"),
    ("library", "ingest"),
    ("doctor",),
    ("web",),
    ("app",),
    ("cli",),
)
"""Lowest first. A package imports only from lower lines: not from higher ones, not from its own."""
LINE_OF = {package: line for line, packages in enumerate(LINES) for package in packages}

IMPORTERS: Mapping[str, tuple[str, ...]] = {
    "prometheus_client": ("proxy.telemetry",),
    "opentelemetry": ("proxy.telemetry",),
    "aiohttp": (
        "proxy.runtime.http_client",
        "proxy.storage.originals.http_store",
        "proxy.web",
        "proxy.app",
        "proxy.analysis",
        "proxy.ingest",
        "proxy.doctor",
    ),
    "pyvips": ("proxy.rendering.worker.imaging",),
    "pyseccomp": ("proxy.rendering.worker.sandbox",),
    # Only entry points of workers load it, so the server never loads libvips.
    "proxy.rendering.worker": (
        "proxy.rendering.worker",
        "proxy.metadata.worker",
        "proxy.metadata.forensics.thumbnail",
    ),
}
"""The only packages that may import a third-party package, or the worker."""

DOMAIN_MAY_IMPORT = frozenset({"cachetools"})
"""Besides the standard library."""

DEPENDENCIES_OF_AIOHTTP = frozenset({"multidict", "yarl"})
"""The types of aiohttp's headers and URLs; aiohttp always brings them."""


def package_of(module: str) -> str:
    """Return the package below ``proxy`` that holds a module: ``web`` for ``proxy.web.routes``."""
    return module.partition(".")[2].partition(".")[0]


def is_ours(module: str) -> bool:
    return _within(module, PACKAGE)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def read_graph(root: Path = ROOT) -> Graph:
    """Read the imports of every module below ``proxy``, those for type checkers included."""
    files = {_name(path, root): path for path in (root / PACKAGE).rglob("*.py")}
    return {
        name: frozenset(_imports(ast.parse(path.read_text()), name, set(files)))
        for name, path in files.items()
    }


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.AST, module: str, modules: set[str]) -> Iterator[str]:
    """Yield full names of imports; ``from package import module`` yields that module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in modules else node.module


def violations(graph: Graph) -> list[str]:
    """Return every forbidden import as a sentence."""
    return sorted(
        {
            *_without_line(graph),
            *_not_downward(graph),
            *_forbidden_importers(graph),
            *_impure_domain(graph),
            *_cycles(graph),
        }
    )


def _edges(graph: Graph) -> Iterator[tuple[str, str]]:
    return ((module, other) for module, others in graph.items() for other in others)


def _without_line(graph: Graph) -> Iterable[str]:
    return (
        f"{module} is in no line of the table"
        for module in graph
        if module != PACKAGE and package_of(module) not in LINE_OF
    )


def _not_downward(graph: Graph) -> Iterable[str]:
    for module, other in _edges(graph):
        here, there = package_of(module), package_of(other)
        if is_ours(other) and here != there and here in LINE_OF and there in LINE_OF:
            if LINE_OF[there] > LINE_OF[here]:
                yield f"{module} imports {other}, which is above it"
            elif LINE_OF[there] == LINE_OF[here]:
                yield f"{module} imports {other}, which is on the same line"


def _forbidden_importers(graph: Graph) -> Iterable[str]:
    return (
        f"{module} imports {other}, which only {' and '.join(importers)} may"
        for module, other in _edges(graph)
        for package, importers in IMPORTERS.items()
        if _within(other, package)
        if not any(_within(module, importer) for importer in importers)
    )


def _impure_domain(graph: Graph) -> Iterable[str]:
    allowed = sys.stdlib_module_names | DOMAIN_MAY_IMPORT
    return (
        f"{module} imports {other}, which is not of the standard library"
        for module, other in _edges(graph)
        if package_of(module) == "domain"
        if not is_ours(other) and other.partition(".")[0] not in allowed
    )


def _cycles(graph: Graph) -> Iterable[str]:
    """Yield modules that import each other, through however many others."""
    left = {
        module: {other for other in others if other in graph} for module, others in graph.items()
    }
    while leaves := [module for module, others in left.items() if not others]:
        for leaf in leaves:
            del left[leaf]
        for others in left.values():
            others.difference_update(leaves)
    return (f"{module} is part of an import cycle, or above one" for module in left)


def made_up(**imports: str) -> Graph:
    """Return a small graph: ``web__a="proxy.serving.b"`` is what ``proxy.web.a`` imports."""
    return {
        f"{PACKAGE}.{name.replace('__', '.')}": frozenset(others.split())
        for name, others in imports.items()
    }


@pytest.fixture(scope="module")
def graph() -> Graph:
    return read_graph()


def test_imports_point_down_the_layers(graph: Graph) -> None:
    assert violations(graph) == []


def test_every_package_of_the_table_exists_and_there_are_no_loose_modules(graph: Graph) -> None:
    assert {package_of(module) for module in graph} == {"", *LINE_OF}
    assert [path.name for path in (ROOT / PACKAGE).glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize("package", IMPORTERS)
def test_a_restricted_package_is_imported_by_its_importers(package: str, graph: Graph) -> None:
    assert any(_within(other, package) for _, other in _edges(graph))


def test_no_public_class_name_is_used_twice() -> None:
    found = defaultdict(list)
    for path in (ROOT / PACKAGE).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(_name(path, ROOT))
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


def test_a_graph_in_order_has_no_violations() -> None:
    assert (
        violations(
            made_up(
                domain__errors="__future__ enum proxy cachetools",
                settings="proxy.domain.errors pydantic",
                storage="proxy.domain.errors",
                storage__local="proxy.storage proxy.settings",
                rendering__worker__imaging__load="pyvips proxy.domain.errors",
                rendering__worker____main__="proxy.rendering.worker.imaging.load",
                serving__delivery="proxy.storage.local",
                web__routes="aiohttp.web proxy.serving.delivery",
                app__web="proxy.web.routes proxy.storage.local aiohttp",
            )
        )
        == []
    )


@pytest.mark.parametrize(
    ("graph", "violation"),
    [
        (
            made_up(settings="proxy.storage", storage=""),
            "proxy.settings imports proxy.storage, which is above it",
        ),
        (
            made_up(serving__delivery="proxy.web.headers", web__headers=""),
            "proxy.serving.delivery imports proxy.web.headers, which is above it",
        ),
        (
            made_up(storage__files="proxy.rendering.pool", rendering__pool=""),
            "proxy.storage.files imports proxy.rendering.pool, which is on the same line",
        ),
        (
            made_up(ingest__steps="proxy.library.import_files", library__import_files=""),
            "proxy.ingest.steps imports proxy.library.import_files, which is on the same line",
        ),
        (
            made_up(
                rendering__pool="proxy.rendering.worker.sandbox", rendering__worker__sandbox=""
            ),
            (
                "proxy.rendering.pool imports proxy.rendering.worker.sandbox, which only"
                " proxy.rendering.worker and proxy.metadata.worker and"
                " proxy.metadata.forensics.thumbnail may"
            ),
        ),
        (
            made_up(serving__delivery="prometheus_client.core"),
            (
                "proxy.serving.delivery imports prometheus_client.core, which only"
                " proxy.telemetry may"
            ),
        ),
        (
            made_up(rendering__worker__sandbox="pyvips"),
            (
                "proxy.rendering.worker.sandbox imports pyvips, which only"
                " proxy.rendering.worker.imaging may"
            ),
        ),
        (
            made_up(domain__formats="numpy.typing"),
            "proxy.domain.formats imports numpy.typing, which is not of the standard library",
        ),
        (made_up(utils=""), "proxy.utils is in no line of the table"),
        (made_up(utils__text=""), "proxy.utils.text is in no line of the table"),
    ],
)
def test_a_violation_is_found(graph: Graph, violation: str) -> None:
    assert violations(graph) == [violation]


@pytest.mark.parametrize(
    "graph",
    [
        made_up(domain__variant="proxy.domain.jobs", domain__jobs="proxy.domain.variant"),
        made_up(web__a="proxy.web.b", web__b="proxy.web.c", web__c="proxy.web.a"),
        made_up(storage="proxy.storage.local", storage__local="proxy.storage"),
        made_up(domain__errors="proxy.domain.errors"),
    ],
)
def test_a_cycle_is_found(graph: Graph) -> None:
    assert violations(graph) == sorted(
        f"{module} is part of an import cycle, or above one" for module in graph
    )


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
        "proxy.web.app": frozenset(
            {
                "typing",
                "os.path",
                "json",
                "proxy",
                "proxy.web",
                "proxy.web.app",
                "aiohttp",
                "pyvips",
            }
        ),
    }


def test_no_command_loads_libvips() -> None:
    script = (
        "import sys\n"
        "from proxy.cli import import_frozen, load\n"
        "load()\n"
        "import_frozen('proxy.cli.run_server')\n"
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
    """Return the server's requirements and those of its optional extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return chain(project["dependencies"], *project["optional-dependencies"].values())


def test_what_is_imported_is_declared_in_pyproject() -> None:
    """An undeclared package is there by chance, as a dependency of a developer's tool."""
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
    assert missing <= DEPENDENCIES_OF_AIOHTTP
