"""Extracts files with addresses in a network of its own, and counts the packets that leave.

``unshare --net --mount python -m tests.faults.isolated FOLDER`` prints JSON. All traffic, look-ups
of names included, passes one interface, which counts it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import c2pa
import structlog

from proxy.domain.errors import SmartserveError
from proxy.metadata.extraction import ExtractOptions
from proxy.metadata.start import open_metadata
from proxy.settings import MetadataSettings, WorkerSettings
from tests.faults.hostile_metadata import ADDRESSES
from tests.support.golden import GOLDEN

# All addresses are this machine's own, so each packet is sent by the loopback interface.
_SETUP = ("ip link set lo up", "ip route add local default dev lo")
_RESOLVER = "nameserver 192.0.2.53\n"
_REMOTE = "c2pa/example-assets/crater-lake-cr.jpg"


def main() -> int:
    """Print the packets of the extraction, and those of a control that sends some."""
    folder = Path(sys.argv[1])
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    for command in _SETUP:
        subprocess.run(command.split(), check=True)
    (folder / "resolv.conf").write_text(_RESOLVER)
    # Names are looked up through the interface, too, wherever this machine does it.
    subprocess.run(["mount", "--bind", folder / "resolv.conf", "/etc/resolv.conf"], check=True)
    files = dict(ADDRESSES)
    if GOLDEN is not None:
        files["crater lake"] = (GOLDEN / _REMOTE).read_bytes()
    before = _packets()
    states = asyncio.run(_extract(folder, files))
    after = _packets()
    _fetch(ADDRESSES["a remote manifest"])
    control = _packets() - after
    json.dump({"packets": after - before, "control": control, "states": states}, sys.stdout)
    return 0


async def _extract(folder: Path, files: Mapping[str, bytes]) -> dict[str, Any]:
    """Extract all files; return the state of the Content Credentials of each, or its error."""
    states: dict[str, Any] = {}
    settings = MetadataSettings(
        temp_root=str(folder / "files"), engines=1, nice=0, engine_timeout_s=600
    )
    async with open_metadata(settings, WorkerSettings(), environment={}) as service:
        for name, content in files.items():
            with service.new_file(max_bytes=10**9) as file:
                await file.write(content)
                await file.finish()
                try:
                    found = await service.extract(file, ExtractOptions("a.jpg", advanced=True))
                except SmartserveError as error:
                    states[name] = error.code
                else:
                    states[name] = (found.metadata["c2pa"] or {}).get("state")
    return states


def _packets() -> int:
    """Return the packets that all interfaces of this namespace have sent."""
    # Not /sys/class/net, which shows the namespace in which it was mounted.
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    return sum(int(line.partition(":")[2].split()[9]) for line in lines)


def _fetch(content: bytes) -> None:
    """Read the Content Credentials of a file as c2pa-python does by default."""
    with suppress(c2pa.C2paError), c2pa.Reader("image/jpeg", BytesIO(content)):
        pass


if __name__ == "__main__":
    sys.exit(main())
