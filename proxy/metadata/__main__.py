"""The extraction engine from the command line: ``python -m proxy.metadata FILE ...``.

Prints the extraction of each file as JSON, one object per line, as `smartserve metadata extract
--json` does. The exit status is 1 if a file could not be read.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import orjson

from proxy.domain.errors import SmartserveError
from proxy.metadata.local_file import extract_file
from proxy.metadata.start import open_metadata
from proxy.settings import load_settings
from proxy.telemetry.logging import configure_logs


async def main(paths: list[str]) -> int:
    """Extract the files one after the other; return the exit status."""
    settings = load_settings(None)
    # On standard error: standard output is for the results.
    configure_logs(settings.log)
    status = 0
    async with open_metadata(settings.metadata, settings.workers) as service:
        for path in paths:
            try:
                extraction = await extract_file(service, Path(path))
            except (SmartserveError, OSError) as error:
                status = 1
                sys.stderr.write(f"{path}: {error}\n")
            else:
                sys.stdout.write(orjson.dumps(extraction.to_dict()).decode() + "\n")
    return status


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("usage: python -m proxy.metadata FILE ...")
    sys.exit(asyncio.run(main(sys.argv[1:])))
