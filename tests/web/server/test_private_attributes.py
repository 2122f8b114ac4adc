"""The private attributes of other packages that proxy/ uses: all are listed, and all exist.

Packages may remove them in any release. If an upgrade does, these tests say which behaviour breaks.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import proxy

USED = {
    ("aiohttp.base_protocol.BaseProtocol", "_loop"): "the clock of a connection's deadlines",
    (
        "aiohttp.base_protocol.BaseProtocol",
        "_parser",
    ): "cached requests are taken out of it",
    ("aiohttp.base_protocol.BaseProtocol", "_paused"): "a client that reads slowly is waited for",
    ("aiohttp.web_protocol", "_ErrInfo"): "a rejected request takes the place of a parsed one",
    ("aiohttp.web_protocol.RequestHandler", "_keepalive_timeout"): "idle connections are closed",
    (
        "aiohttp.web_protocol.RequestHandler",
        "_make_error_handler",
    ): "rejected requests get a problem",
    ("aiohttp.web_protocol.RequestHandler", "_messages"): "responses keep the order of requests",
    (
        "aiohttp.web_protocol.RequestHandler",
        "_next_keepalive_close_time",
    ): "idle connections are closed",
    ("aiohttp.web_protocol.RequestHandler", "_process_keepalive"): "its idle timer is disabled",
    (
        "aiohttp.web_protocol.RequestHandler",
        "_waiter",
    ): "no deadline runs during a request",
    ("aiohttp.web_request.Request", "_match_info"): "traces name the route of a request",
    ("aiohttp.web_response.StreamResponse", "_keep_alive"): "cached responses skip the constructor",
    ("aiohttp.web_response.StreamResponse", "_status"): "cached responses skip the constructor",
    ("aiohttp.web_runner.BaseRunner", "_make_server"): "connections are made before aiohttp's",
    ("aiomysql.connection.Connection", "_connect"): "connections with TLS are of a class of ours",
    (
        "aiomysql.connection.Connection",
        "_request_authentication",
    ): "a server without TLS gets no password",
    ("aiomysql.connection.Connection", "_reader"): "connections with TLS are closed in order",
    ("aiomysql.connection.Connection", "_writer"): "connections with TLS are closed in order",
}
"""By owner and name: what proxy/ needs it for."""

_PUBLIC = {"_replace", "_fields", "_asdict", "_mapping", "_exit", "_current_frames"}
"""Documented, in spite of the underscore: of named tuples, SQLAlchemy's rows, os and sys."""
_OWN = sys.stdlib_module_names | {"proxy", "__future__"}


@pytest.mark.parametrize(("owner", "name"), USED)
def test_a_private_attribute_that_is_used_exists(owner: str, name: str) -> None:
    found: Any = _resolve(owner)
    assert found is not None, f"{owner} is gone. What depends on it: {USED[owner, name]}"
    assert name in _names(found), (
        f"{owner} has no {name} any more, which proxy/ uses. What depends on it: "
        f"{USED[owner, name]}. Adapt the code, or keep the version of the package below this one."
    )


def test_every_private_attribute_that_is_used_is_listed() -> None:
    used = {use for module in _modules() for use in _uses(module)}
    used.add(("aiohttp.web_request.Request", "_match_info"))  # by getattr, see below
    # The class is made in a function, because its base is imported there.
    used.remove(("proxy.storage.database.mysql_tls: connection", "_connect"))
    used |= {use for use in USED if use[0] == "aiomysql.connection.Connection"}
    assert used == set(USED), "list new uses in USED, and remove those that are gone"


def test_no_private_attribute_is_used_by_getattr_but_the_one_that_is_listed() -> None:
    found = [
        (module.__name__, node.args[1].value)
        for module in _modules()
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "setattr", "hasattr")
        and isinstance(node.args[1], ast.Constant)
        and _is_private(str(node.args[1].value))
    ]
    assert {name for _, name in found} <= {"_match_info"}


def _modules() -> Iterator[ModuleType]:
    """All modules but those that load libvips or run a command when they are imported."""
    for found in pkgutil.walk_packages(proxy.__path__, "proxy."):
        skipped = ("proxy.rendering.worker", "proxy.storage.database.migrations")
        if not found.name.startswith(skipped) and not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def _uses(module: ModuleType) -> Iterator[tuple[str, str]]:
    source = inspect.getsource(module)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and _is_foreign(node.module or "proxy"):
            for alias in node.names:
                if _is_private(alias.name):
                    yield str(node.module), alias.name
        if isinstance(node, ast.ClassDef) and inspect.isclass(getattr(module, node.name, None)):
            yield from _inherited(getattr(module, node.name), node)
        if (
            isinstance(node, ast.Attribute)
            and _is_private(node.attr)
            and node.attr not in _PUBLIC
            and ast.unparse(node.value) not in ("self", "cls", "other", "super()")
        ):
            yield f"{module.__name__}: {ast.unparse(node.value)}", node.attr


def _inherited(kind: type, node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Names that a class uses or overrides and that its furthest foreign base defines."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    names |= {one.name for one in ast.walk(node) if isinstance(one, functions)}
    bases = [base for base in reversed(kind.__mro__) if _is_foreign(base.__module__)]
    for name in filter(_is_private, names):
        owner = next((base for base in bases if name in _names(base)), None)
        if owner is not None:
            yield f"{owner.__module__}.{owner.__qualname__}", name


def _names(owner: Any) -> set[str]:
    """The attributes of a module or class, those of its instances included."""
    assigned = re.findall(r"self\.(_\w+)\b[^=\n]*=", inspect.getsource(owner))
    slots = getattr(owner, "__slots__", ())
    return {*vars(owner), *assigned, *([slots] if isinstance(slots, str) else slots)}


def _resolve(path: str) -> Any:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name, None)


def _is_foreign(module: str) -> bool:
    return module.partition(".")[0] not in _OWN


def _is_private(name: str) -> bool:
    # `_make` of named tuples is public in spite of its name.
    return name.startswith("_") and not name.startswith("__") and name != "_make"
