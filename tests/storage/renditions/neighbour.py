"""A process that shares a directory of renditions with the tests: ``<act> <root> <seed>``."""

import asyncio
import json
import random
import sys
from pathlib import Path

from proxy.storage.renditions.disk_store import DiskStore
from tests.storage.renditions.variants import KIB, MIB, body, put, read, settings, variant, writing

MEDIA = 40
ROUNDS = 150


def content(media_id: int) -> bytes:
    """The one body that a medium has, from whichever process: some short, some long."""
    return body(MIB // 2 if media_id % 10 == 0 else 20 * KIB + media_id, media_id)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def share(store: DiskStore, seed: str) -> None:
    """Write, read, purge and evict at random; a body that is not whole ends in an error."""
    chance = random.Random(seed)
    for number in range(ROUNDS):
        media_id = chance.randrange(MEDIA)
        found = await read(store, variant(media_id))
        if found is None:
            await put(store, variant(media_id), content(media_id))
        elif found != content(media_id):
            raise AssertionError(media_id)
        if number % 30 == 0:
            await store.maintenance.run_round()
        if number % 17 == 0:
            await store.purge(chance.randrange(MEDIA))
    say(json.dumps(store.statistics()))


async def hang(store: DiskStore) -> None:
    """Begin to write, and wait to be killed."""
    async with writing(store, variant(), body(MIB)):
        say("writing")
        await asyncio.Event().wait()


async def main(act: str, root: str, seed: str) -> None:
    async with DiskStore(Path(root), settings(disk_max_bytes=MIB)) as store:
        if act == "share":
            await share(store, seed)
        else:
            await hang(store)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
