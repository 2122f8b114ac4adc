"""The extraction engine from the command line: ``python -m proxy.metadata FILE ...``.

Prints the extraction of each file as JSON, one object per line, as `smartserve metadata extract
--json` does. The exit status is 1 if a file could not be read, and 2 if a setting is invalid.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import orjson

from proxy.domain.errors import ConfigurationError, SmartserveError
from proxy.metadata.local_file import extract_file
from proxy.metadata.start import open_metadata
from proxy.settings import load_settings
from proxy.telemetry.logging import configure_logs


async def main(paths: list[str]) -> int:
    """Extract the files one after the other; return the exit status."""
    try:
        settings = load_settings(None)
    except ConfigurationError as error:
        for fault in error.faults:
            sys.stderr.write(f"error: {fault}\n")
        return 2
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
                sys.stdout.flush()
    return status


def run(paths: list[str]) -> int | str:
    """Run `main`; return the exit status, or the sentence to exit with."""
    if not paths:
        return "usage: python -m proxy.metadata FILE ..."
    try:
        return asyncio.run(main(paths))
    except BrokenPipeError:
        # Nobody reads the results any more. The interpreter would try again at exit.
        sys.stdout = None
        return 1
    except (SmartserveError, OSError) as error:
        # Of the engine, or of standard output.
        return f"error: {error}"


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
