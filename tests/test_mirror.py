"""The test tree mirrors `proxy`, and tests wait for conditions instead of a fixed time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
SMALL = 12
"""A module of at most so many statements needs no test file: constants, entry points."""
LOADED_BY_PATH = frozenset({"migrations"})
"""Alembic's scripts: tests of the schema run them."""
PROGRAMS = frozenset({"benchmarks", "deploy", "faults", "fuzz", "platform", "support"})
"""Folders whose code waits for other processes, or paces a client."""


def modules() -> Iterator[Path]:
    """Yield the modules of `proxy` that need a test file, relative to `proxy`.

    The tests of a package's ``__init__`` are in the folder of the package.
    """
    for path in sorted((ROOT / "proxy").rglob("*.py")):
        relative = path.relative_to(ROOT / "proxy")
        excluded = LOADED_BY_PATH & set(relative.parts) or path.name == "__init__.py"
        if not excluded and _statements(path) > SMALL:
            yield relative


def _statements(path: Path) -> int:
    imports = (ast.Import, ast.ImportFrom, ast.Expr)
    tree = ast.parse(path.read_text())
    return sum(isinstance(n, ast.stmt) and not isinstance(n, imports) for n in ast.walk(tree))


def test_file_of(module: Path) -> Path:
    """Return the test file of a module."""
    return TESTS / module.parent / f"test_{module.stem.strip('_')}.py"


test_file_of.__test__ = False  # type: ignore[attr-defined]


def test_every_module_has_a_test_file_of_its_name() -> None:
    missing = [str(test_file_of(one).relative_to(TESTS)) for one in modules()]
    assert [name for name in missing if not (TESTS / name).exists()] == []


def test_every_test_file_of_a_module_has_tests() -> None:
    files = [test_file_of(one) for one in modules()]
    empty = [file for file in files if file.exists() and "def test_" not in file.read_text()]
    assert empty == []


def sleeps(path: Path) -> Iterator[int]:
    """Yield the lines that wait for a fixed time; ``asyncio.sleep(0)`` does not wait."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "asyncio.sleep":
            seconds = node.args[0]
            yield from [] if ast.unparse(seconds) == "0" else [node.lineno]


def test_no_test_waits_for_a_fixed_time() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in TESTS.rglob("*.py")
        if path.relative_to(TESTS).parts[0] not in PROGRAMS
        for line in sleeps(path)
    ]
    assert found == []
