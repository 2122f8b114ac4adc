"""Any sequence of acts gives what a dict would, bar what an eviction may take."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from proxy.domain.variant import Variant, shape_of
from proxy.storage.renditions.tiered_store import TieredStore
from tests.storage.renditions.variants import KIB, body, put, read, settings, variant


@dataclass(frozen=True)
class Put:
    variant: Variant
    length: int
    seed: int

    @property
    def content(self) -> bytes:
        return body(self.length, self.seed)


@dataclass(frozen=True)
class Get:
    variant: Variant


@dataclass(frozen=True)
class Purge:
    media_id: int
    width: int | None

    @property
    def shapes(self) -> set[str] | None:
        return None if self.width is None else {shape_of(variant(1, self.width).geometry)}

    def reaches(self, key: Variant) -> bool:
        return key.media_id == self.media_id and self.width in (None, key.geometry.width)


Act = Put | Get | Purge

_media = st.integers(1, 3)
_widths = st.sampled_from([300, 480])
_variants = st.builds(variant, _media, _widths)
_lengths = st.sampled_from([1, 5 * KIB, 30 * KIB, 300 * KIB])
_puts = st.builds(Put, _variants, _lengths, st.integers(0, 3))
_purges = st.builds(Purge, _media, st.none() | _widths)
_acts = st.one_of(_puts, st.builds(Get, _variants))
_sequences = st.lists(st.one_of(_acts, _acts, _purges), max_size=25)


async def _run(root: Path, acts: list[Act]) -> None:
    limits = settings(memory_max_bytes=50 * KIB, memory_max_item_bytes=20 * KIB)
    model: dict[Variant, bytes] = {}
    async with TieredStore(root, limits) as store:
        for act in acts:
            match act:
                case Put():
                    await put(store, act.variant, act.content)
                    model[act.variant] = act.content
                case Get():
                    assert await read(store, act.variant) == model.get(act.variant)
                case Purge():
                    gone = [key for key in model if act.reaches(key)]
                    assert await store.purge(act.media_id, act.shapes) == len(gone)
                    for key in gone:
                        del model[key]
        assert store.statistics()["disk"]["items"] == len(model)


@hypothesis_settings(max_examples=60, deadline=None)
@given(_sequences)
def test_the_store_behaves_as_a_dict(acts: list[Act]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_run(Path(directory), acts))
