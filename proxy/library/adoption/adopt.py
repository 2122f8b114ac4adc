"""Adopting: a picture of another system's tree becomes a medium, its sizes what may stand in.

Each step may be done again: what is there already is recognised by its path, its row or its
content. So a run that was killed is completed by the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from proxy.domain.errors import DatabaseUnavailable, RenderError, SourceError
from proxy.domain.formats import SOURCE_MEDIA_TYPES
from proxy.domain.geometry import SizeSpec
from proxy.domain.media import DataType, Media, MediaFacts, MediaStatus
from proxy.domain.worker_protocol import ProbeResult
from proxy.library.adoption.file_names import FolderRole, uploader_of
from proxy.library.adoption.grouping import FileGroup, is_size_of
from proxy.library.adoption.inventory import FoundFile, SkippedFile
from proxy.library.adoption.placement import FilePlacement
from proxy.serving.source_check import SourceChecker
from proxy.serving.source_facts import to_facts
from proxy.storage.database import NewMedia
from proxy.storage.database.media_repository import SqlMediaRepository
from proxy.storage.originals import SourceStore


@dataclass(frozen=True, slots=True)
class AdoptedMedia:
    """A medium, and what of it was found in the tree."""

    media_id: int
    path: str
    """Of the file that is the picture, or of one of its sizes where that is missing."""
    known: bool
    """Whether nothing of it was new."""
    source: MediaFacts | None
    """None where its own source is missing or damaged."""
    stand_ins: tuple[MediaFacts, ...]


@dataclass(frozen=True, slots=True)
class AdoptionOwner:
    """Whose pictures are, and what for, where the tree does not tell."""

    user_id: int
    data_type: DataType


Outcome = AdoptedMedia | SkippedFile


class _Examination:
    """The files of one group, each looked at once."""

    def __init__(self, tree: SourceStore, checker: SourceChecker) -> None:
        self._tree = tree
        self._checker = checker
        self._results: dict[str, ProbeResult | None] = {}
        self.skipped: list[SkippedFile] = []

    async def of(self, one: FoundFile) -> ProbeResult | None:
        """What a file is, or None where it is no sound picture; then it is among the skipped."""
        if one.path not in self._results:
            self._results[one.path] = await self._look(one)
        return self._results[one.path]

    async def _look(self, one: FoundFile) -> ProbeResult | None:
        try:
            async with self._tree.open(one.path) as source:
                return await self._checker.check(source.descriptor)
        except (SourceError, RenderError) as error:
            self.skipped.append(SkippedFile(one.path, error.detail))
            return None

    async def sound(self, files: Iterable[FoundFile]) -> dict[FoundFile, ProbeResult]:
        """Those that are sound pictures."""
        results = [(one, await self.of(one)) for one in files]
        return {one: result for one, result in results if result is not None}


class TreeAdopter:
    """Takes pictures of a tree over, a few at a time."""

    def __init__(
        self,
        *,
        catalogue: SqlMediaRepository,
        tree: SourceStore,
        keeper: FilePlacement,
        checker: SourceChecker,
        sizes: Mapping[str, SizeSpec],
        owner: AdoptionOwner,
        below: Callable[[str], str | None],
    ) -> None:
        """The rooms it works with; files are opened by their paths below ``tree``.

        ``below`` makes a path of the database one below the tree, or None where it is not there.
        """
        self._catalogue = catalogue
        self._tree = tree
        self._keeper = keeper
        self._checker = checker
        self._sizes = sizes
        self._owner = owner
        self._below = below
        self._adding = asyncio.Lock()

    async def adopt(self, group: FileGroup) -> list[Outcome]:
        """Take over the files of a group; one that is another picture becomes a medium of its own.

        Raises:
            CapacityError: the database or the workers cannot be had; what is done stays.
        """
        media = await self._of_row(group.media_ids)
        if media is not None:
            return await self._complete(media, group, self._own_file(media, group))
        for one in (*group.masters, *group.files):
            media = await self._of_content(one)
            if media is not None:
                return await self._complete(media, group, one)
        return await self._take(group)

    async def _of_row(self, media_ids: Iterable[int]) -> Media | None:
        found = [await self._catalogue.find(media_id) for media_id in media_ids]
        return next((media for media in found if media is not None), None)

    def _own_file(self, media: Media, group: FileGroup) -> FoundFile | None:
        """The file of a group from which the medium is served."""
        files = {one.path: one for one in group.files}
        paths = [self._below(path) for path in media.source_paths]
        return next((files[path] for path in paths if path in files), None)

    async def _of_content(self, one: FoundFile) -> Media | None:
        """The medium whose source is a copy of this file; looked for where files are copied."""
        if not self._keeper.copies:
            return None
        digest = await self._digest(one)
        known = None if digest is None else await self._catalogue.find_by_hash(digest)
        return None if known is None else await self._catalogue.find(known.id)

    async def _digest(self, one: FoundFile) -> str | None:
        try:
            async with self._tree.open(one.path) as source:
                return await self._checker.digest(source.descriptor)
        except SourceError:
            return None

    async def _take(self, group: FileGroup) -> list[Outcome]:
        """Make a medium of a group that nothing is known of."""
        examination = _Examination(self._tree, self._checker)
        sound = await examination.sound(group.files)
        if not sound:
            return list(examination.skipped)
        masters = [one for one in group.masters if one in sound]
        master = masters[0] if masters else max(sound, key=lambda one: _pixels(sound[one]))
        media, added = await self._enter(group, master, masters[1:], sound[master])
        del sound[master]
        outcomes = await self._stand_in(media, sound, path=master.path, known=not added)
        return [*examination.skipped, *outcomes]

    async def _complete(
        self, media: Media, group: FileGroup, own: FoundFile | None
    ) -> list[Outcome]:
        """Add what is not known yet to a medium that is there."""
        examination = _Examination(self._tree, self._checker)
        if own is not None and media.known_facts is None:
            await self._learn(media, await examination.of(own))
            media = await self._catalogue.find(media.id) or media
        others = [one for one in group.files if one is not own]
        sound = await examination.sound([one for one in others if not await self._kept(media, one)])
        path = (own or group.files[0]).path
        lost = own is None or bool({own.path} & {one.path for one in examination.skipped})
        outcomes = await self._stand_in(media, sound, path=path, known=True, lost=lost)
        return [*examination.skipped, *outcomes]

    async def _learn(self, media: Media, result: ProbeResult | None) -> None:
        if result is not None and media.source_path is not None:
            facts = to_facts(result, media.source_path, row_version=media.row_version)
            await self._catalogue.save_facts(media.id, facts)

    async def _kept(self, media: Media, one: FoundFile) -> bool:
        """Whether a file stands in already; a copy is told by its content."""
        if self._keeper.copies:
            digest = await self._digest(one)
            return digest in {facts.content_hash for facts in media.stand_ins}
        known = {(facts.source_path, facts.byte_size) for facts in media.stand_ins}
        return (one.path, one.byte_size) in known

    async def _enter(
        self, group: FileGroup, master: FoundFile, others: Sequence[FoundFile], result: ProbeResult
    ) -> tuple[Media, bool]:
        """The medium of a source, and whether it is new: equal content is one."""
        async with self._adding:
            known = await self._catalogue.find_by_hash(result.content_hash)
            if known is None:
                new = await self._new(group, master, others, result)
                facts = to_facts(result, new.bulk_path or new.library_path or "")
                media_id = await self._catalogue.insert(new, facts)
            else:
                media_id = known.id
        media = await self._catalogue.find(media_id)
        if media is None:
            raise DatabaseUnavailable("a row went away while it was used", retry_after_s=1)
        return media, known is None

    async def _new(
        self, group: FileGroup, master: FoundFile, others: Sequence[FoundFile], result: ProbeResult
    ) -> NewMedia:
        owner = _owner_of(group) or self._owner
        bulk_path = library_path = None
        processed = master.folder.shelf is FolderRole.LIBRARY and not self._keeper.copies
        if processed or master.premade:
            library_path = await self._keeper.size(
                master, result, user_id=owner.user_id, data_type=owner.data_type
            )
        else:
            bulk_path = await self._keeper.original(master, result)
            library = (one.path for one in others if one.folder.shelf is FolderRole.LIBRARY)
            library_path = None if self._keeper.copies else next(library, None)
        return NewMedia(
            user_id=owner.user_id,
            data_type=owner.data_type,
            original_name=master.path.rpartition("/")[2][-255:],
            mime_type=SOURCE_MEDIA_TYPES[result.source_type],
            file_size=result.byte_size,
            bulk_path=bulk_path,
            library_path=library_path,
            status=MediaStatus.COMPLETED,
        )

    async def _stand_in(
        self,
        media: Media,
        sound: Mapping[FoundFile, ProbeResult],
        *,
        path: str,
        known: bool,
        lost: bool = False,
    ) -> list[Outcome]:
        """Keep files as what may stand in for a medium; what cannot be a size of it is its own."""
        source = None if lost else media.known_facts
        like = media.known_facts or max(sound.values(), key=_pixels, default=None)
        sizes = {
            one: result
            for one, result in sound.items()
            if like is not None and is_size_of(result, one, like, self._sizes)
        }
        have = {facts.content_hash for facts in media.stand_ins}
        kept = [
            await self._keep(media, one, result)
            for one, result in sizes.items()
            if result.content_hash not in have
        ]
        outcomes: list[Outcome] = [
            AdoptedMedia(media.id, path, known and not kept, source, (*media.stand_ins, *kept))
        ]
        for one in sound.keys() - sizes.keys():
            outcomes += await self.adopt(FileGroup((one,)))
        return outcomes

    async def _keep(self, media: Media, one: FoundFile, result: ProbeResult) -> MediaFacts:
        path = await self._keeper.size(
            one, result, user_id=media.user_id, data_type=media.data_type
        )
        facts = to_facts(result, path)
        await self._catalogue.add_fallback(media.id, facts)
        return facts


def _owner_of(group: FileGroup) -> AdoptionOwner | None:
    """Whose pictures these are by their folder in the library, or by the name of an upload."""
    for one in group.files:
        if one.folder.user_id is not None and one.folder.data_type is not None:
            return AdoptionOwner(one.folder.user_id, one.folder.data_type)
    uploader = uploader_of(group.files[0].name.stem)
    return None if uploader is None else AdoptionOwner(*uploader)


def _pixels(picture: ProbeResult | MediaFacts) -> int:
    return picture.width * picture.height
