"""Places the files of an adopted tree: they stay, or are copied below the storage root."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.domain.errors import SourceChanged
from proxy.domain.media import ProbeResult
from proxy.library.adoption.inventory import FoundFile
from proxy.storage.originals.local_store import HASH_DIGITS, LocalOriginals, readable


@dataclass(frozen=True, slots=True)
class FilePlacement:
    """Gives each file of a tree its path below the storage root.

    ``originals`` is None for a tree below the storage root: its files stay where they are. The name
    of a copy follows from content and day, so a second run finds the copies of an interrupted one.
    """

    tree: LocalOriginals
    originals: LocalOriginals | None = None

    @property
    def copies(self) -> bool:
        """Return whether files are copied."""
        return self.originals is not None

    async def place_original(self, file: FoundFile, checked: ProbeResult) -> str:
        """Return the path of an original: ``bulk/<day>/<name>-<hash>.<type>`` if it is copied.

        Raises:
            SourceError: the file cannot be read any more, or has changed since the check.
        """
        return await self._place(file, checked, f"bulk/{file.day}")

    async def place_size(
        self, file: FoundFile, checked: ProbeResult, *, user_id: int, data_type: str
    ) -> str:
        """Return the path of a premade size: ``library/user_<id>/<type>/img/...`` if copied."""
        return await self._place(file, checked, f"library/user_{user_id}/{data_type}/img")

    async def _place(self, file: FoundFile, checked: ProbeResult, folder: str) -> str:
        if self.originals is None:
            return file.path
        name = f"{readable(file.path)}-{checked.content_hash[:HASH_DIGITS]}.{checked.source_type}"
        async with self.tree.open(file.path) as source:
            if source.byte_size != checked.byte_size:
                raise SourceChanged("The file has changed during its adoption.")
            await self.originals.add(f"{folder}/{name}", source.descriptor)
        return f"{folder}/{name}"
