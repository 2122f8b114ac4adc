"""REDbot on one address, as a process of its own: ``python -m tests.web.redbot_notes URL``.

REDbot asks on its own account what it can of an address (ranges, conditions, negotiation), and has
a loop of its own for that; so a test runs it beside its server. Prints one note a line, as JSON.
"""

from __future__ import annotations

import json
import sys
from configparser import ConfigParser

import thor
from redbot.resource import HttpResource  # type: ignore[import-untyped]


def main(url: str) -> None:
    """Print the status and all notes on an address."""
    config = ConfigParser()
    config.read_dict({"redbot": {"enable_local_access": "True"}})
    resource = HttpResource(config["redbot"])
    resource.set_request(url)
    resource.on("check_done", thor.stop)
    resource.check()
    thor.run()
    print(json.dumps({"status": resource.response.status_code}))  # noqa: T201
    for fetched in (resource, *resource.subreqs.values()):
        for note in fetched.response.notes:
            told = {"note": type(note).__name__, "level": note.level.value, "says": note.summary}
            print(json.dumps({name: str(value) for name, value in told.items()}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
