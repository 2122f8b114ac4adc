"""Which loaders of libvips are open: an allow-list, and the proof that it holds.

libvips' own ``VIPS_BLOCK_UNTRUSTED`` lets matrix, TIFF and UltraHDR through, so everything is
blocked first and only the loaders of the wanted types are opened again.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from types import MappingProxyType
from typing import Any

import pyvips
from pyvips.voperation import Introspect

from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import WorkerInfo

_FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "jpeg": "VipsForeignLoadJpeg",
        "png": "VipsForeignLoadPng",
        "webp": "VipsForeignLoadWebp",
        "avif": "VipsForeignLoadHeif",
        "heic": "VipsForeignLoadHeif",
        "gif": "VipsForeignLoadNsgif",
        "tiff": "VipsForeignLoadTiff",
    }
)
"""The class of loaders for each source type; libvips has none of its own for BMP."""

_SUFFIXES: Mapping[str, str] = MappingProxyType(
    {
        "jpeg": ".jpg",
        "png": ".png",
        "webp": ".webp",
        "avif": ".avif",
        "gif": ".gif",
        "tiff": ".tif",
    }
)
_HEIC_SAMPLE = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAXZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABmgABAAAAAAAAABoAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA9mlwcnAAAADWaXBjbwAAAHFodmNDAQQIAAAAn/gAAAAAHvAA/Pz4+AAADwNgAAEA"
    "F0ABDAH//wQIAAADAJ/4AAADAAAeugJAYQABACZCAQEECAAAAwCf+AAAAwAAHsCCBBZbqrprmwIAAAMAMgAAAwACEGIA"
    "AQAGRAHBc8GJAAAAE2NvbHJuY2x4AAEADQAGgAAAABRpc3BlAAAAAAAAAEAAAABAAAAAKGNsYXAAAAAQAAAAAQAAABAA"
    "AAAB////0AAAAAL////QAAAAAgAAAA5waXhpAAAAAAEIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAAIm1kYXQAAAAW"
    "KAGuCiRtuOZWuq6zJvowp7R4QJUBRw=="
)
"""A grey picture of 16 x 16: libvips writes no HEIC itself that could be tried."""

_BLOCKED = 32
"""``VIPS_OPERATION_BLOCKED`` of ``VipsOperationFlags``."""


def configure() -> None:
    """Set libvips up for a worker: no operation cache, one thread for each pipeline."""
    pyvips.cache_set_max(0)
    pyvips.cache_set_max_mem(0)
    pyvips.cache_set_max_files(0)
    pyvips.concurrency_set(1)


def lock_loaders(source_types: Sequence[str]) -> None:
    """Open the loaders of these types and no other, and check that the list holds.

    Raises:
        ConfigurationError: libvips left a loader open that is not on the list.
    """
    families = {_FAMILIES[name] for name in source_types if name in _FAMILIES}
    loadable_types.cache_clear()
    pyvips.operation_block_set("VipsForeignLoad", state=True)
    for family in families:
        pyvips.operation_block_set(family, state=False)
    wanted = {name for family in families for name in _loaders(family)}
    if surplus := set(open_loaders()) - wanted:
        raise ConfigurationError(
            [f"libvips: loaders stay open that should be blocked: {', '.join(sorted(surplus))}"]
        )


def open_loaders() -> tuple[str, ...]:
    """The libvips names of all loaders that are not blocked: ``jpegload_source`` and others."""
    return tuple(sorted(name for name in _loaders("VipsForeignLoad") if not _blocked(name)))


@cache
def loadable_types() -> tuple[str, ...]:
    """The source types that really open now: each has decoded a sample of itself, once."""
    return tuple(name for name in _FAMILIES if _opens(name))


def hello() -> WorkerInfo:
    """What this process can do, to be told after the loaders are locked."""
    version = ".".join(str(pyvips.version(part)) for part in range(3))
    return WorkerInfo(libvips=version, source_types=loadable_types(), codecs=dict(_CODECS))


def _loaders(family: str) -> Iterator[str]:
    """Nicknames of the loaders below a class: the leaves of its tree."""
    gtype = pyvips.type_from_name(family)
    children = _children(gtype) if gtype else []
    for child in children:
        yield from _loaders(pyvips.type_name(child))
    if gtype and not children:
        yield pyvips.nickname_find(gtype)


def _children(gtype: int) -> list[int]:
    children: list[int] = []

    def visit(child: int, _a: Any, _b: Any) -> Any:
        children.append(child)
        return pyvips.ffi.NULL

    pyvips.type_map(gtype, visit)
    return children


def _blocked(loader: str) -> bool:
    return bool(Introspect(loader).flags & _BLOCKED)


def _opens(source_type: str) -> bool:
    try:
        pyvips.Image.new_from_buffer(_sample(source_type), "").avg()
    except pyvips.Error:
        return False
    return True


def _sample(source_type: str) -> bytes:
    if source_type == "heic":
        return _HEIC_SAMPLE
    sample: bytes = pyvips.Image.black(16, 16).write_to_buffer(_SUFFIXES[source_type])
    return sample


def _package_versions() -> dict[str, str]:
    """Return the versions of the pyvips packages; a system libvips has no pyvips-binary."""
    versions = {}
    for name in ("pyvips", "pyvips-binary"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


# Read at import: a sandboxed worker cannot open files any more.
_CODECS = _package_versions()
