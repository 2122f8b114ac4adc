"""``smartserve metadata``: embed and read metadata of generated images, and name files by it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from proxy.cli import SUMMARIES, app
from proxy.cli.base import (
    command,
    print_error,
    print_summary,
    printable,
    progress_bar,
)
from proxy.metadata.embedding import ImageMetadataEmbedding, ImageMetadataWriter, ImageNamingConfig
from proxy.metadata.embedding.naming import SUFFIXES, filename_of, parse_timestamp
from proxy.metadata.embedding.writer import (
    candidates,
    embed,
    open_regular,
    publish,
    sidecar_json,
    sidecar_path,
    sync_folder,
)
from proxy.settings import Settings

metadata_app = typer.Typer(help=SUMMARIES["metadata"], no_args_is_help=True, rich_markup_mode=None)
app.add_typer(metadata_app, name="metadata")

_MAX_IMAGE_BYTES = 1 << 30
_MAX_JSON_BYTES = 16 << 20

FilesArgument = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Image files.")]


class Naming(StrEnum):
    """The naming conventions by their names on the command line."""

    STANDARD = "standard"
    DESCRIPTIVE = "descriptive"
    GUID = "guid"

    def config(self, suffix: str) -> ImageNamingConfig:
        """Return the configuration for files with a suffix such as ``.png``."""
        configs = {
            Naming.STANDARD: ImageNamingConfig.standard,
            Naming.DESCRIPTIVE: ImageNamingConfig.descriptive,
            Naming.GUID: ImageNamingConfig.guid_only,
        }
        return replace(configs[self](), extension=suffix.lower().removeprefix("."))


NamingOption = Annotated[Naming, typer.Option(help="The parts of a name.")]


@command("embed", group=metadata_app)
async def embed_(
    _settings: Settings,
    files: FilesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new files.")],
    metadata: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with the metadata.", show_default="<stem>.metadata.json of each image"
        ),
    ] = None,
    sidecar: Annotated[
        bool, typer.Option("--sidecar", help="Also write <stem>.metadata.json.")
    ] = False,
) -> int:
    """Write copies of PNG, JPEG and WebP files with metadata; pixels are not encoded again.

    No file is replaced. Prints the path of each new file and the reason for each that is skipped,
    and exits with 1 if there is one.
    """

    def embed_one(path: Path) -> None:
        source = metadata or sidecar_path(path)
        try:
            found = ImageMetadataEmbedding.from_json(_read(source, _MAX_JSON_BYTES))
        except (OSError, ValueError) as error:
            raise ValueError(f"no metadata in {source}: {_reason(error)}") from error
        # Metadata of an earlier run is replaced in the copy; the file itself is not changed.
        known = ImageMetadataWriter().extract_metadata(path) is not None
        content = embed(_read(path, _MAX_IMAGE_BYTES), found, replace=known)
        beside = sidecar_json(found) if sidecar else None
        output.mkdir(parents=True, exist_ok=True)
        print(printable(str(publish(output, path.name, content, beside, generated=False))))

    skipped = await _each("embedding", files, embed_one)
    print_summary("embed", written=len(files) - skipped, skipped=skipped)
    return skipped


@command("name", group=metadata_app)
async def name_(
    _settings: Settings,
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Images, or JSON files with metadata.")
    ],
    naming: NamingOption = Naming.STANDARD,
    prefix: Annotated[str | None, typer.Option(help="First part of each name.")] = None,
) -> int:
    """Print the name that each file would get by its embedded metadata; change nothing.

    Prints the reason for each file that is skipped, and exits with 1 if there is one.
    """

    def name_one(path: Path) -> None:
        if path.suffix.lower() == ".json":
            found, suffix = ImageMetadataEmbedding.from_json(_read(path, _MAX_JSON_BYTES)), ".png"
        else:
            found, suffix = _require(path), path.suffix
        name = filename_of(found, naming.config(suffix), prefix)
        print(f"{printable(str(path))}\t{printable(name)}")

    skipped = await _each("naming", files, name_one)
    print_summary("name", named=len(files) - skipped, skipped=skipped)
    return skipped


@command("rename", group=metadata_app)
async def rename_(
    _settings: Settings,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of images.")],
    naming: NamingOption = Naming.STANDARD,
    by_date: Annotated[
        bool, typer.Option("--by-date", help="Move them to YYYY/MM/DD/images/ in the folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the new names; change nothing.")
    ] = False,
) -> int:
    """Rename the images of a folder, and their sidecars, by their embedded metadata.

    Folders below it are left alone. No file is replaced: equal names get a number. The command may
    be interrupted and repeated. Prints the reason for each image that is skipped, and exits with 1
    if there is one.
    """
    unchanged = 0
    planned: set[Path] = set()

    def rename_one(path: Path) -> None:
        nonlocal unchanged
        if path.is_symlink():
            raise ValueError("is a symbolic link")
        found, folder = _require(path), directory
        if by_date:
            folder = directory / parse_timestamp(found).strftime("%Y/%m/%d") / "images"
        name = filename_of(found, naming.config(path.suffix))
        target = _plan(path, folder / name, planned) if dry_run else _move(path, folder / name)
        if target == path:
            unchanged += 1
        else:
            print(f"{printable(str(path))}\t{printable(str(target))}")

    try:
        images = await asyncio.to_thread(_images, directory)
    except OSError as error:
        raise typer.BadParameter(f"{directory}: {_reason(error)}") from error
    skipped = await _each("renaming", images, rename_one)
    done = {"planned" if dry_run else "renamed": len(images) - skipped - unchanged}
    print_summary("rename", **done, unchanged=unchanged, skipped=skipped)
    return skipped


def _images(directory: Path) -> list[Path]:
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    return [directory / name for name in names if Path(name).suffix.lower() in SUFFIXES]


def _plan(path: Path, wanted: Path, planned: set[Path]) -> Path:
    for target in candidates(wanted):
        if target == path or (target not in planned and not os.path.lexists(target)):
            planned.add(target)
            return target
    raise AssertionError  # candidates are infinite


def _move(path: Path, wanted: Path) -> Path:
    """Rename an image and its sidecar, and return the new path."""
    beside = sidecar_path(path)
    # The sidecar first: an image without it is never seen under the new name.
    files = [*([beside] if beside.exists() else []), path]
    for target in candidates(wanted):
        if target == path:
            return path
        target.parent.mkdir(parents=True, exist_ok=True)
        if _link_all(files, [*[sidecar_path(target)][: len(files) - 1], target]):
            break
    # On the disk under the new name before the old one is removed. The sidecar first: a run that
    # is interrupted here continues from the image.
    sync_folder(target.parent)
    for one in files:
        one.unlink()
    sync_folder(path.parent)
    return target


def _link_all(files: Iterable[Path], targets: Iterable[Path]) -> bool:
    """Give files a second name each; return False, with nothing changed, if one is taken."""
    linked: list[Path] = []
    for file, target in zip(files, targets, strict=True):
        try:
            # A link and not a rename, which would replace an existing file.
            os.link(file, target, follow_symlinks=False)
            linked.append(target)
        except FileExistsError:
            # The same file: a run was interrupted before it removed the old name.
            if not file.samefile(target):
                for one in linked:
                    one.unlink()
                return False
    return True


async def _each(label: str, files: list[Path], process: Callable[[Path], None]) -> int:
    """Process files one after the other; print the reason for each that fails; count those."""
    skipped = 0
    with progress_bar(label, len(files)) as progress:
        for path in files:
            try:
                # In a thread: on a file system that does not respond, Ctrl-C would have no effect.
                await asyncio.to_thread(process, path)
            except (OSError, ValueError) as error:
                print_error("skipped", f"{path}: {_reason(error)}")
                skipped += 1
            progress.advance(progress.task_ids[0])
    return skipped


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileExistsError):
        return f"{error.filename2 or error.filename} exists already"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _read(path: Path, limit: int) -> bytes:
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"is larger than {limit >> 20:,} MiB")
    return content


def _require(path: Path) -> ImageMetadataEmbedding:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"its name does not end with one of {', '.join(SUFFIXES)}")
    found = ImageMetadataWriter().extract_metadata(path)
    if found is None:
        raise ValueError("has no metadata of the generation. Use `smartserve metadata embed`.")
    return found
