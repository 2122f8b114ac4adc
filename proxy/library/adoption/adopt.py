"""Adopts the images of a tree: originals become media, premade sizes become their fallbacks.

Every step can be repeated: paths, rows and content identify what exists already. A second run
completes an interrupted one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.domain.errors import (
    DatabaseUnavailable,
    MediaRowInvalid,
    RenderError,
    SourceChanged,
    SourceError,
)
from proxy.domain.media import DataType, Media, MediaFacts, ProbeResult
from proxy.domain.variant import SizeSpec
from proxy.library.adoption.file_names import AdoptionOwner, FolderRole, uploader_of
from proxy.library.adoption.grouping import FileGroup, Measured, is_size_of
from proxy.library.adoption.inventory import FoundFile, SkippedFile
from proxy.serving.source_facts import SourceChecker, to_facts
from proxy.storage.database import NewMedia
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.originals.local_store import HASH_DIGITS, LocalOriginals, readable


@dataclass(frozen=True, slots=True)
class AdoptedMedia:
    """A medium, and which of its files the tree contains."""

    media_id: int
    path: str
    """The original, or one of the sizes if it is missing."""
    known: bool
    """Nothing was added to the database."""
    source: MediaFacts | None
    """None if the original is missing or damaged."""
    fallbacks: tuple[MediaFacts, ...]


Outcome = AdoptedMedia | SkippedFile
_TYPES = frozenset(DataType)
_Checked = dict[FoundFile, ProbeResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeAdopter:
    """Adopts groups of files; several calls may run at once."""

    catalogue: SqlMediaRepository
    tree: LocalOriginals
    originals: LocalOriginals | None
    """Receives copies of the files; None for a tree below the storage root: its files stay."""
    checker: SourceChecker
    sizes: Mapping[str, SizeSpec]
    owner: AdoptionOwner
    """Of images for which the tree does not define one."""
    below: Callable[[str], str | None]
    """Turns a path of the database into one below the tree, or None if it is elsewhere."""
    _adding: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def adopt(self, group: FileGroup) -> list[Outcome]:
        """Adopt the files of a group. A file that is not a size of its master is a medium too.

        Raises:
            CapacityError: the database or the workers are unavailable; what was done remains.
        """
        # Of several rows the oldest that still exists: the others stay as they are.
        for media_id in sorted(group.media_ids):
            try:
                media = await self.catalogue.find(media_id)
            except MediaRowInvalid as error:
                # Not adopted as a new medium: there would be two once the row is corrected.
                return [SkippedFile(one.path, error.detail) for one in group.files]
            if media is not None:
                return await self._complete(media, group, self._own_file(media, group))
        # No row names these files, but an earlier run may have copied one of them.
        for one in (*group.masters, *group.files):
            if (media := await self._copied_medium(one)) is not None:
                return await self._complete(media, group, one)
        return await self._adopt_new(group)

    def _own_file(self, media: Media, group: FileGroup) -> FoundFile | None:
        """Return the file of a group from which the medium is served."""
        files = {one.path: one for one in group.files}
        paths = [self.below(path) for path in media.source_paths]
        return next((files[path] for path in paths if path in files), None)

    async def _copied_medium(self, one: FoundFile) -> Media | None:
        """Return the medium whose source is a copy of this file, if files are copied at all."""
        if self.originals is None:
            return None
        digest = await self._digest(one)
        known = None if digest is None else await self.catalogue.find_by_hash(digest)
        return None if known is None else await self.catalogue.find(known.id)

    async def _digest(self, one: FoundFile) -> str | None:
        try:
            with await self.tree.open(one.path) as source:
                return await self.checker.digest(source.descriptor)
        # `SourceTooLarge` is a RenderError.
        except (SourceError, RenderError):
            # Skipped with its reason by the full check, which follows.
            return None

    async def _check(self, files: Iterable[FoundFile]) -> tuple[_Checked, list[SkippedFile]]:
        """Decode files completely, and return the sound ones and the others."""
        sound: _Checked = {}
        skipped: list[SkippedFile] = []
        for one in files:
            try:
                with await self.tree.open(one.path) as source:
                    sound[one] = await self.checker.check(source.descriptor)
            except (SourceError, RenderError) as error:
                skipped.append(SkippedFile(one.path, error.detail))
        return sound, skipped

    async def _adopt_new(self, group: FileGroup) -> list[Outcome]:
        """Create the medium of a group that the database does not know."""
        sound, skipped = await self._check(group.files)
        if not sound:
            return [*skipped]
        masters = [one for one in group.masters if one in sound]
        # Without an original the largest size is the source.
        master = masters[0] if masters else max(sound, key=lambda one: _pixels(sound[one]))
        media, added = await self._insert(group, master, masters[1:], sound.pop(master))
        outcomes = await self._add_fallbacks(media, sound, path=master.path, known=not added)
        return [*skipped, *outcomes]

    async def _complete(
        self, media: Media, group: FileGroup, own: FoundFile | None
    ) -> list[Outcome]:
        """Add what is new to a known medium; ``own`` is its source, or None if that is missing."""
        skipped: list[SkippedFile] = []
        if own is not None and media.known_facts is None:
            since = await self.catalogue.now()
            checked, skipped = await self._check([own])
            if own in checked and media.source_path is not None:
                # Bound to this version of the row: another program may change it meanwhile.
                facts = to_facts(checked[own], media.source_path, row_version=media.row_version)
                await self.catalogue.save_facts(media.id, facts, since=since)
            media = await self.catalogue.find(media.id) or media
        # The row stays: it is served from its fallbacks until the original is restored.
        lost = own is None or bool(skipped)
        others = [one for one in group.files if one is not own]
        sound, damaged = await self._check(
            [one for one in others if not await self._is_fallback(media, one)]
        )
        path = (own or group.files[0]).path
        outcomes = await self._add_fallbacks(media, sound, path=path, known=True, lost=lost)
        return [*skipped, *damaged, *outcomes]

    async def _is_fallback(self, media: Media, one: FoundFile) -> bool:
        """Return whether a file is a fallback already. A copy is recognised by its content."""
        if self.originals is not None:
            digest = await self._digest(one)
            return digest in {facts.content_hash for facts in media.fallbacks}
        known = {(facts.source_path, facts.byte_size) for facts in media.fallbacks}
        return (one.path, one.byte_size) in known

    async def _insert(
        self, group: FileGroup, master: FoundFile, others: Sequence[FoundFile], result: ProbeResult
    ) -> tuple[Media, bool]:
        """Return the medium of a source, and whether it is new."""
        # One at a time: equal content becomes one medium, so the second must find the first.
        async with self._adding:
            known = await self.catalogue.find_by_hash(result.content_hash)
            if known is None:
                new = await self._new_media(group, master, others, result)
                facts = to_facts(result, new.bulk_path or new.library_path or "")
                media_id = await self.catalogue.insert(new, facts)
            else:
                media_id = known.id
        media = await self.catalogue.find(media_id)
        if media is None:
            raise DatabaseUnavailable("A row was deleted during its adoption.", retry_after_s=1)
        return media, known is None

    async def _new_media(
        self, group: FileGroup, master: FoundFile, others: Sequence[FoundFile], result: ProbeResult
    ) -> NewMedia:
        # Names of uploads contain the user, also outside the library.
        owners = (one.folder.owner for one in group.files if one.folder.owner is not None)
        owner = next(owners, None) or uploader_of(group.files[0].name.stem) or self.owner
        bulk_path = library_path = None
        in_library = master.folder.role is FolderRole.LIBRARY and self.originals is None
        if in_library or master.premade:
            library_path = await self.place(master, result, _size_folder(owner))
        else:
            bulk_path = await self.place(master, result, f"bulk/{master.day}")
            # The processed file in the library is the second source, if the original is lost.
            library = (one.path for one in others if one.folder.role is FolderRole.LIBRARY)
            library_path = next(library, None) if self.originals is None else None
        return NewMedia(
            user_id=owner.user_id,
            data_type=owner.data_type,
            original_name=master.path.rpartition("/")[2][-255:],
            bulk_path=bulk_path,
            library_path=library_path,
        )

    async def _add_fallbacks(
        self, media: Media, sound: _Checked, *, path: str, known: bool, lost: bool = False
    ) -> list[Outcome]:
        """Store the sizes of a medium as fallbacks, and adopt all other files on their own."""
        source = None if lost else media.known_facts
        # Without facts of the source, the largest sound size is the measure for the others.
        master = media.known_facts or max(sound.values(), key=_pixels, default=None)
        sizes = {
            one: result
            for one, result in sound.items()
            if master is not None and is_size_of(result, one, master, self.sizes)
        }
        existing = {facts.content_hash for facts in media.fallbacks}
        # Another program may have stored none, or one that this version does not know.
        known_type = media.data_type in _TYPES
        data_type = DataType(media.data_type) if known_type else self.owner.data_type
        folder = _size_folder(AdoptionOwner(media.user_id, data_type))
        added = []
        for one, result in sizes.items():
            # Otherwise it was stored by an earlier run.
            if result.content_hash not in existing:
                placed = await self.place(one, result, folder)
                added.append(to_facts(result, placed))
                await self.catalogue.add_fallback(media.id, added[-1])
        outcomes: list[Outcome] = [
            AdoptedMedia(media.id, path, known and not added, source, (*media.fallbacks, *added))
        ]
        # For example a close-up: its name suggests a size, its dimensions do not fit.
        for one in sound.keys() - sizes.keys():
            outcomes += await self.adopt(FileGroup([one]))
        return outcomes

    async def place(self, file: FoundFile, checked: ProbeResult, folder: str) -> str:
        """Return the path of a file below the storage root: ``<folder>/<name>-<hash>.<type>``.

        The name of a copy follows from its content, so a second run finds the copies of an
        interrupted one.

        Raises:
            SourceError: the file cannot be read any more, or has changed since the check.
        """
        if self.originals is None:
            return file.path
        name = f"{readable(file.path)}-{checked.content_hash[:HASH_DIGITS]}.{checked.source_type}"
        with await self.tree.open(file.path) as source:
            if source.byte_size != checked.byte_size:
                raise SourceChanged("The file has changed during its adoption.")
            await self.originals.add(f"{folder}/{name}", source.descriptor)
        return f"{folder}/{name}"


def _size_folder(owner: AdoptionOwner) -> str:
    return f"library/user_{owner.user_id}/{owner.data_type}/img"


def _pixels(image: Measured) -> int:
    return image.width * image.height
