"""libvips in a worker: an allow-list of its loaders, and the translation of its failures.

``VIPS_BLOCK_UNTRUSTED`` of libvips still lets the matrix, TIFF and UltraHDR loaders through. So all
loaders are blocked first and only those of the configured types are enabled again.
"""

from __future__ import annotations

import base64
import os
import select
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, TypeVar

import pyvips
from pyvips.voperation import Introspect

try:
    import pi_heif
except ImportError:  # the extra "heic"
    pi_heif = None
else:
    pi_heif.options.DECODE_THREADS = 1  # as in `configure`
    pi_heif.options.THUMBNAILS = False
    pi_heif.options.DEPTH_IMAGES = False
    pi_heif.options.AUX_IMAGES = False

from proxy.domain.errors import ConfigurationError
from proxy.domain.worker_protocol import JobFailure, WorkerInfo

# Classes of the loaders of a source type.
_FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "jpeg": "VipsForeignLoadJpeg",
        "png": "VipsForeignLoadPng",
        "webp": "VipsForeignLoadWebp",
        "avif": "VipsForeignLoadHeif",
        "heic": "VipsForeignLoadHeif",
        "gif": "VipsForeignLoadNsgif",
        "tiff": "VipsForeignLoadTiff",
        "svg": "VipsForeignLoadSvg",
    }
)

DECODED_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {"bmp": "PIL", "ico": "PIL", "jp2": "PIL", "jxl": "pyjpegxl"}
)
"""Source types that `decoders` decodes, and the packages that do."""
# Looked up at import: a sandboxed worker cannot open files any more.
_ELSEWHERE = tuple(kind for kind, package in DECODED_ELSEWHERE.items() if find_spec(package))
# Those that the settings accept.
_elsewhere = list(_ELSEWHERE)

# A grey image of 16 x 16 pixels: this libvips cannot encode HEIC, so a sample is included.
_HEIC_SAMPLE = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAXZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABmgABAAAAAAAAABoAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA9mlwcnAAAADWaXBjbwAAAHFodmNDAQQIAAAAn/gAAAAAHvAA/Pz4+AAADwNgAAEA"
    "F0ABDAH//wQIAAADAJ/4AAADAAAeugJAYQABACZCAQEECAAAAwCf+AAAAwAAHsCCBBZbqrprmwIAAAMAMgAAAwACEGIA"
    "AQAGRAHBc8GJAAAAE2NvbHJuY2x4AAEADQAGgAAAABRpc3BlAAAAAAAAAEAAAABAAAAAKGNsYXAAAAAQAAAAAQAAABAA"
    "AAAB////0AAAAAL////QAAAAAgAAAA5waXhpAAAAAAEIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAAIm1kYXQAAAAW"
    "KAGuCiRtuOZWuq6zJvowp7R4QJUBRw=="
)

# What pi-heif raises for a file that libheif rejects.
_HEIF_ERRORS = (RuntimeError, ValueError, OSError, EOFError, SyntaxError)
_RGB = 3
_INTERPRETATIONS: Mapping[tuple[bool, bool], str] = MappingProxyType(
    {
        (False, False): "srgb",
        (False, True): "rgb16",
        (True, False): "b-w",
        (True, True): "grey16",
    }
)
# The end of a traceback names the place; all of a deep one would not fit into a datagram.
_TRACEBACK_CHARACTERS = 4000
# ``VIPS_OPERATION_BLOCKED`` of ``VipsOperationFlags``.
_BLOCKED = 32


def configure() -> None:
    """Configure libvips for a worker: no operation cache, one thread per pipeline, no messages."""
    pyvips.cache_set_max(0)
    pyvips.cache_set_max_mem(0)
    pyvips.cache_set_max_files(0)
    pyvips.concurrency_set(1)
    # It formats a dozen debug messages for each image, which nobody reads. Warnings of libvips are
    # switched off by the environment of the process.
    pyvips._remove_log_handler()  # noqa: SLF001 - there is no public name for it


def lock_loaders(source_types: Sequence[str]) -> None:
    """Enable the loaders of these types, block all others, and verify the result.

    Raises:
        ConfigurationError: a loader that is not on the list remains enabled.
    """
    wanted = [name for name in source_types if name in _FAMILIES]
    _elsewhere[:] = [kind for kind in source_types if kind in _ELSEWHERE]
    # A sample decodes only with an open loader.
    loadable_types.cache_clear()
    pyvips.operation_block_set("VipsForeignLoad", state=True)
    for name in wanted:
        pyvips.operation_block_set(_FAMILIES[name], state=False)
    if surplus := set(open_loaders()).difference(*map(loaders_of, wanted)):
        raise ConfigurationError(
            [f"libvips: loaders stay open that should be blocked: {', '.join(sorted(surplus))}"]
        )


def open_loaders() -> tuple[str, ...]:
    """Return the libvips names of all enabled loaders, for example ``jpegload_source``."""
    names = _leaves("VipsForeignLoad")
    return tuple(sorted(name for name in names if not Introspect(name).flags & _BLOCKED))


@cache
def loaders_of(source_type: str) -> frozenset[str]:
    """Return the libvips names of the loaders of a type, open or not."""
    return frozenset(_leaves(_FAMILIES[source_type]))


@cache
def loadable_types() -> tuple[str, ...]:
    """Return the source types that can be decoded: here, or in a worker with other decoders.

    A sample of each type that libvips loads is decoded once, but no SVG, which would take 3 MB.
    """
    return (*(name for name in _FAMILIES if _decodes_sample(name)), *_elsewhere)


def hello() -> WorkerInfo:
    """Return the capabilities of this process; call it after `lock_loaders`."""
    version = ".".join(str(pyvips.version(part)) for part in range(3))
    return WorkerInfo(libvips=version, source_types=loadable_types(), codecs=dict(_CODECS))


def _leaves(family: str) -> Iterator[str]:
    """Yield the nicknames of the loaders below a class: the leaves of the class tree."""
    gtype = pyvips.type_from_name(family)
    if not gtype:
        return
    children: list[int] = []

    def visit(child: int, _a: Any, _b: Any) -> Any:
        children.append(child)
        return pyvips.ffi.NULL  # continue with the next class

    pyvips.type_map(gtype, visit)
    for child in children:
        yield from _leaves(pyvips.type_name(child))
    if not children:
        yield pyvips.nickname_find(gtype)


def decode_heic(content: bytes) -> Any:
    """Decode a HEIC in memory, upright, 8 or 16 bits, with its ICC profile.

    libvips reads the header of a HEIC, but its wheel has no decoder for HEVC. With a libvips that
    has one, pi-heif is not needed.

    Raises:
        pyvips.Error: the pixels cannot be decoded.
    """
    if pi_heif is None:
        return pyvips.Image.new_from_buffer(content, "")
    try:
        decoded = pi_heif.open_heif(content, convert_hdr_to_8bit=False)
        pixels = bytes(decoded.data)
    except _HEIF_ERRORS as error:
        raise pyvips.Error("unable to decode HEIC", str(error)) from error
    bands = len(decoded.mode.partition(";")[0])
    wide = decoded.mode.endswith(";16")
    number_type = "ushort" if wide else "uchar"
    page = pyvips.Image.new_from_memory(pixels, *decoded.size, bands, number_type)
    # Into memory of libvips while ``pixels`` exists: `copy_memory` of the first image would return
    # the image itself.
    page = page.copy(interpretation=_INTERPRETATIONS[bands < _RGB, wide]).copy_memory()
    if decoded.mode.startswith(("RGBa", "La")):
        page = unpremultiplied(page).copy_memory()
    if profile := decoded.info.get("icc_profile"):
        page.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return page


def unpremultiplied(page: Any) -> Any:
    """Return a page whose colours are no longer multiplied by its alpha, in the same levels."""
    straight = page.unpremultiply().rint().cast(page.format)
    return straight.copy(interpretation=page.interpretation)


def _decodes_sample(source_type: str) -> bool:
    try:
        if source_type == "heic":
            pyvips.Image.new_from_buffer(_HEIC_SAMPLE, "")  # libvips reads the header
            decode_heic(_HEIC_SAMPLE).avg()
            return True
        if source_type == "svg":
            return not loaders_of(source_type).isdisjoint(open_loaders())
        sample = pyvips.Image.black(16, 16).write_to_buffer(f".{source_type}")
        pyvips.Image.new_from_buffer(sample, "").avg()
    except pyvips.Error:
        return False
    return True


def _package_versions() -> dict[str, str]:
    """Return the versions of the packages with codecs; a system libvips has no pyvips-binary."""
    versions = {}
    for name in ("pyvips", "pyvips-binary", "pi-heif", "pillow", "pyjpegxl"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


# Read at import: a sandboxed worker cannot open files any more.
_CODECS = _package_versions()


_T = TypeVar("_T")


class SourceRefused(Exception):
    """The source is not rendered; ``kind`` is one of `worker_protocol.FAILURE_KINDS`."""

    def __init__(self, kind: str, detail: str) -> None:
        """Store the kind and a sentence that is safe to show to clients."""
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


MAX_BLOCKS = 1_000_000
"""Blocks of a file that are walked in Python, which takes 0.2 s. Real files of 100 MB have fewer:
a block of a GIF has up to 255 bytes, one of other types usually thousands."""


def block_limit() -> Iterator[int]:
    """Yield a number for each block that a file may have.

    Raises:
        SourceRefused: it has more. A walk that ended silently would miss frames and missing pixels.
    """
    yield from range(MAX_BLOCKS)
    raise SourceRefused("too_large", f"the source has more than {MAX_BLOCKS:,} blocks of data")


def answered(work: Callable[[], _T], *, target_fd: int | None = None) -> _T | JobFailure:
    """Do the work and return its result, or the failure that stopped it.

    With ``target_fd`` an error of libvips is attributed to the target if the target is broken.
    On return no traceback keeps an image, a source or a target alive.
    """
    try:
        return work()
    except SourceRefused as refusal:
        return JobFailure(refusal.kind, refusal.detail)
    except OSError as error:
        return JobFailure("unreadable", f"the source cannot be read: {error.strerror}")
    except pyvips.Error as error:
        return _vips_failure(error, target_fd)
    except MemoryError:
        return JobFailure("too_large", "the image needs more memory than a worker may use")
    except Exception as error:  # noqa: BLE001 - the boundary of the process
        # A bug that this image triggers. Raised on, it would end the worker, and a file that a
        # stranger made could end all of them.
        detail = f"the image cannot be processed: unexpected {type(error).__name__}, see the log"
        shown = traceback.format_exc()[-_TRACEBACK_CHARACTERS:]
        return JobFailure("undecodable", detail, traceback=shown)


def _vips_failure(error: pyvips.Error, target_fd: int | None) -> JobFailure:
    if target_fd is not None and not _writable(target_fd):
        return JobFailure("fault", "the target was closed before the image was written")
    # libvips reports a failed read of the descriptor as "unix error".
    if "unix error" in str(error):
        return JobFailure("unreadable", "the source cannot be read")
    return JobFailure("undecodable", f"the source cannot be decoded: {_first_line(error)}")


@contextmanager
def encoding() -> Iterator[None]:
    """Context manager for work on decoded pixels: an error is a fault of this server."""
    try:
        yield
    except OSError as error:
        raise SourceRefused("fault", f"the target cannot be written: {error.strerror}") from error
    except pyvips.Error as error:
        detail = f"the image cannot be encoded: {_first_line(error)}"
        raise SourceRefused("fault", detail) from error


def _first_line(error: pyvips.Error) -> str:
    """Return the first line of libvips' error buffer, which is the innermost error.

    libheif first seeks beyond the end of a file to find out its length.
    """
    lines = [line.strip() for line in str(error.detail).splitlines() if "bad seek" not in line]
    return next(filter(None, lines), str(error.message))


def _writable(descriptor: int) -> bool:
    """Return whether a descriptor is open and still has a reader; poll(2) does not write."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return not any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0))
