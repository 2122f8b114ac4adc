"""The loaders of libvips that are enabled: an allow-list, and the check that it is effective.

``VIPS_BLOCK_UNTRUSTED`` of libvips still lets the matrix, TIFF and UltraHDR loaders through. So all
loaders are blocked first and only those of the configured types are enabled again.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from types import MappingProxyType
from typing import Any, NamedTuple

import pyvips
from pyvips.voperation import Introspect

from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import WorkerInfo


class Loader(NamedTuple):
    """How libvips names the loaders of one source type."""

    family: str
    """Their common class."""
    nickname: str
    """Their common prefix."""
    suffix: str
    """File name suffix of the saver."""


LOADERS: Mapping[str, Loader] = MappingProxyType(
    {
        "jpeg": Loader("VipsForeignLoadJpeg", "jpegload", ".jpg"),
        "png": Loader("VipsForeignLoadPng", "pngload", ".png"),
        "webp": Loader("VipsForeignLoadWebp", "webpload", ".webp"),
        "avif": Loader("VipsForeignLoadHeif", "heifload", ".avif"),
        "heic": Loader("VipsForeignLoadHeif", "heifload", ".heic"),
        "gif": Loader("VipsForeignLoadNsgif", "gifload", ".gif"),
        "tiff": Loader("VipsForeignLoadTiff", "tiffload", ".tif"),
    }
)
"""By source type; libvips has no loader for BMP."""

_HEIC_SAMPLE = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAXZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABmgABAAAAAAAAABoAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA9mlwcnAAAADWaXBjbwAAAHFodmNDAQQIAAAAn/gAAAAAHvAA/Pz4+AAADwNgAAEA"
    "F0ABDAH//wQIAAADAJ/4AAADAAAeugJAYQABACZCAQEECAAAAwCf+AAAAwAAHsCCBBZbqrprmwIAAAMAMgAAAwACEGIA"
    "AQAGRAHBc8GJAAAAE2NvbHJuY2x4AAEADQAGgAAAABRpc3BlAAAAAAAAAEAAAABAAAAAKGNsYXAAAAAQAAAAAQAAABAA"
    "AAAB////0AAAAAL////QAAAAAgAAAA5waXhpAAAAAAEIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAAIm1kYXQAAAAW"
    "KAGuCiRtuOZWuq6zJvowp7R4QJUBRw=="
)
"""A grey image of 16 x 16 pixels: this libvips cannot encode HEIC, so a sample is included."""

_BLOCKED = 32
"""``VIPS_OPERATION_BLOCKED`` of ``VipsOperationFlags``."""


def configure() -> None:
    """Configure libvips for a worker: no operation cache, one thread per pipeline."""
    pyvips.cache_set_max(0)
    pyvips.cache_set_max_mem(0)
    pyvips.cache_set_max_files(0)
    pyvips.concurrency_set(1)


def lock_loaders(source_types: Sequence[str]) -> None:
    """Enable the loaders of these types, block all others, and verify the result.

    Raises:
        ConfigurationError: a loader that is not on the list remains enabled.
    """
    families = {LOADERS[name].family for name in source_types if name in LOADERS}
    loadable_types.cache_clear()
    pyvips.operation_block_set("VipsForeignLoad", state=True)
    for family in families:
        pyvips.operation_block_set(family, state=False)
    allowed = {name for family in families for name in _loaders(family)}
    if surplus := set(open_loaders()) - allowed:
        raise ConfigurationError(
            [f"libvips: loaders stay open that should be blocked: {', '.join(sorted(surplus))}"]
        )


def open_loaders() -> tuple[str, ...]:
    """Return the libvips names of all enabled loaders, for example ``jpegload_source``."""
    names = _loaders("VipsForeignLoad")
    return tuple(sorted(name for name in names if not Introspect(name).flags & _BLOCKED))


@cache
def loadable_types() -> tuple[str, ...]:
    """Return the source types that can be decoded: a sample of each is decoded once."""
    return tuple(name for name in LOADERS if _decodes_sample(name))


def hello() -> WorkerInfo:
    """Return the capabilities of this process; call it after `lock_loaders`."""
    version = ".".join(str(pyvips.version(part)) for part in range(3))
    return WorkerInfo(libvips=version, source_types=loadable_types(), codecs=dict(_CODECS))


def _loaders(family: str) -> Iterator[str]:
    """Yield the nicknames of the loaders below a class: the leaves of the class tree."""
    gtype = pyvips.type_from_name(family)
    if not gtype:
        return
    children: list[int] = []

    def visit(child: int, _a: Any, _b: Any) -> Any:
        children.append(child)
        return pyvips.ffi.NULL

    pyvips.type_map(gtype, visit)
    for child in children:
        yield from _loaders(pyvips.type_name(child))
    if not children:
        yield pyvips.nickname_find(gtype)


def _decodes_sample(source_type: str) -> bool:
    try:
        if source_type == "heic":
            sample = _HEIC_SAMPLE
        else:
            sample = pyvips.Image.black(16, 16).write_to_buffer(LOADERS[source_type].suffix)
        pyvips.Image.new_from_buffer(sample, "").avg()
    except pyvips.Error:
        return False
    return True


def _package_versions() -> dict[str, str]:
    """Return the versions of the pyvips packages; a system libvips has no pyvips-binary."""
    versions = {}
    for name in ("pyvips", "pyvips-binary"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


# Read at import: a sandboxed worker cannot open files any more.
_CODECS = _package_versions()
