"""Writes generated images with their metadata, and reads that metadata again."""

from __future__ import annotations

import errno
import io
import itertools
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from proxy.domain.errors import MetadataError
from proxy.metadata.container.walk import walk
from proxy.metadata.embedding.containers import with_metadata
from proxy.metadata.embedding.fields import ImageMetadataEmbedding
from proxy.metadata.embedding.naming import SUFFIXES, ImageNamingConfig, filename_of
from proxy.metadata.embedding.written import (
    FULL_JSON,
    MAX_JPEG_EXIF,
    EarlierMetadata,
    exif_data,
    texts_of,
)
from proxy.runtime.safe_open import sync_directory
from proxy.runtime.tempfiles import TempFile, write_all

if TYPE_CHECKING:
    from PIL import Image

_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
}
_MAX_SIDES = {"PNG": (1 << 31) - 1, "JPEG": 65_500, "WEBP": 16_383}
"""In pixels; that of JPEG is the limit of libjpeg."""
FILE_MODE = 0o666
"""Less the umask, as for files of other programs."""


class ImageMetadataWriter:
    """Names, writes and reads images with metadata. May be used by several threads."""

    def __init__(self, naming_config: ImageNamingConfig | None = None) -> None:
        self.naming_config = naming_config or ImageNamingConfig.standard()

    def generate_filename(
        self, metadata: ImageMetadataEmbedding, custom_prefix: str | None = None
    ) -> str:
        """Return the file name of an image by the naming configuration.

        Raises:
            ValueError: the timestamp cannot be parsed, or the prefix cannot be part of a name.
        """
        return filename_of(metadata, self.naming_config, custom_prefix)

    def save_with_metadata(
        self,
        image: Image.Image,
        metadata: ImageMetadataEmbedding,
        output_dir: Path | str,
        filename: str | None = None,
        embed_full_json: bool = True,  # noqa: FBT001, FBT002
        embed_exif: bool = True,  # noqa: FBT001, FBT002
        save_sidecar_json: bool = False,  # noqa: FBT001, FBT002
    ) -> Path:
        """Write an image with its metadata, and return its path.

        The file appears complete or not at all, and never replaces another. Missing folders are
        created. Only PNG has text chunks (``embed_full_json``); JPEG and WebP have EXIF data. What
        ``image.info`` contains is not written, except for the colour profile.

        Raises:
            FileExistsError: the image or its sidecar exists; generated names get a suffix instead.
            ValueError: ``filename`` has a folder or a suffix other than PNG, JPEG or WebP; a name
                needs the timestamp and it cannot be parsed; or the format cannot store the image.
        """
        name = self.generate_filename(metadata) if filename is None else filename
        kind = format_of(name)
        content = embed(
            _encode(image, kind),
            metadata,
            full_json=embed_full_json,
            exif=embed_exif,
        )
        directory = Path(output_dir)
        directory.mkdir(parents=True, exist_ok=True)
        sidecar = sidecar_json(metadata) if save_sidecar_json else None
        return publish(directory, name, content, sidecar, generated=filename is None)

    def extract_metadata(self, image_path: Path | str) -> ImageMetadataEmbedding | None:
        """Return the metadata that this class or ml_lib embedded, or None if there is none.

        Damaged or foreign metadata, and a file that is no image, is no metadata.

        Raises:
            OSError: the file cannot be read.
        """
        with open_regular(Path(image_path)) as file:
            return read_metadata(file)


def read_metadata(file: BinaryIO) -> ImageMetadataEmbedding | None:
    """As `ImageMetadataWriter.extract_metadata`, for a seekable file."""
    return next(_embedded(file), None)


def _embedded(file: BinaryIO) -> Iterator[ImageMetadataEmbedding]:
    """Yield all metadata that can be parsed, that of text chunks first."""
    try:
        found = walk(file)
    # Not an image, or one that exceeds the limits of the walk.
    except MetadataError:
        return
    chunks = [one.text for one in found.texts if one.keyword == FULL_JSON]
    comments = [one.text for one in found.exif if one.keyword == "UserComment"]
    for text in (*chunks, *comments):
        with suppress(ValueError):
            yield ImageMetadataEmbedding.from_json(text)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: it does not exist, is not a regular file, or cannot be read.
    """
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return file


def format_of(name: str) -> str:
    """Return the name that Pillow has for the format of a file name.

    Raises:
        ValueError: it has folders, or no suffix of an image in which metadata can be embedded.
    """
    if Path(name).name != name or "\0" in name:
        raise ValueError(f"{name!r} is not a bare file name. Give the folder as output_dir.")
    kind = SUFFIXES.get(Path(name).suffix.lower())
    if kind is None:
        raise ValueError(f"{name!r} must end with one of {', '.join(SUFFIXES)}")
    return kind


def _encode(image: Image.Image, kind: str) -> bytes:
    # Before the encoder: its errors do not name the cause, and one of them is a MemoryError.
    if not 0 < min(image.size) <= max(image.size) <= _MAX_SIDES[kind]:
        raise ValueError(
            f"{kind} cannot store an image of {image.width}x{image.height} pixels. "
            f"Each side must have 1 to {_MAX_SIDES[kind]:,} pixels."
        )
    # A copy: the caller's image keeps its info, of which Pillow would write comment and XMP.
    clean = image.copy()
    clean.info = {key: image.info[key] for key in ("transparency",) if key in image.info}
    buffer = io.BytesIO()
    try:
        clean.save(buffer, kind, icc_profile=image.info.get("icc_profile"), **_OPTIONS[kind])
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{kind} cannot store this image of mode {image.mode} ({error}). "
            'Convert it first, for example with image.convert("RGB").'
        ) from error
    return buffer.getvalue()


def embed(
    content: bytes,
    metadata: ImageMetadataEmbedding,
    *,
    full_json: bool = True,
    exif: bool = True,
) -> bytes:
    """Return an image file with metadata; its pixels are not encoded again.

    Models are named without folders. What this program embedded earlier is replaced, unless another
    program has changed it.

    Raises:
        ValueError: the file is damaged or no PNG, JPEG or WebP, or would lose other EXIF data.
    """
    safe = metadata.without_folders()
    limit = MAX_JPEG_EXIF if content.startswith(b"\xff\xd8") else None
    texts, tiff = texts_of(safe) if full_json else {}, exif_data(safe, limit=limit) if exif else b""
    earlier = EarlierMetadata(_embedded(io.BytesIO(content)))
    return with_metadata(content, texts, tiff, own=earlier, always=FULL_JSON)


def sidecar_path(image: Path) -> Path:
    """Return the path of an image's sidecar file."""
    return image.with_name(f"{image.stem}.metadata.json")


def sidecar_json(metadata: ImageMetadataEmbedding) -> bytes:
    """Return the content of a sidecar file."""
    return metadata.without_folders().to_json(indent=2).encode("utf-8", "replace") + b"\n"


def publish(
    directory: Path, name: str, content: bytes, sidecar: bytes | None, *, generated: bool
) -> Path:
    """Write an image, and its sidecar unless that is None, durably; return the image's path.

    Raises:
        FileExistsError: one of them exists; a generated name gets the first suffix that is free.
    """
    for path in candidates(directory / name):
        files = {} if sidecar is None else {sidecar_path(path): sidecar}
        try:
            _publish({**files, path: content})
        except FileExistsError:
            if not generated:
                raise
        else:
            return path
    raise AssertionError  # candidates are infinite


def candidates(path: Path) -> Iterator[Path]:
    """Yield the path, then paths with the suffixes -2, -3 and so on."""
    yield path
    for number in itertools.count(2):
        yield path.with_stem(f"{path.stem}-{number}")


def _publish(files: Mapping[Path, bytes]) -> None:
    """Write new files of one directory: each appears complete, the last one after the others."""
    for path in files:
        # Saves writing them; `link` decides.
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    linked: list[Path] = []
    with ExitStack() as stack:
        written = []
        for path, content in files.items():
            file = stack.enter_context(TempFile(str(path.parent), mode=FILE_MODE))
            write_all(file.descriptor, content)
            os.fsync(file.descriptor)
            written.append((path, file))
        try:
            for path, file in written:
                file.link(str(path))
                linked.append(path)
        except OSError:
            for path in linked:
                path.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def sync_folder(directory: Path) -> None:
    """Synchronise the names in a folder with the disk."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_directory(descriptor)
    finally:
        os.close(descriptor)
