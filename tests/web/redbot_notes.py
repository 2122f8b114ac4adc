"""Runs REDbot on one URL, in its own process: ``python -m tests.web.redbot_notes URL``.

REDbot sends its own requests (ranges, conditions, negotiation) and has its own event loop, so a
test runs it in another process than the server. Prints one note per line, as JSON.
"""

from __future__ import annotations

import json
import sys
from configparser import ConfigParser

import thor
from redbot.resource import HttpResource  # type: ignore[import-untyped]


def main(url: str) -> None:
    """Print the status and all notes about a URL."""
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
            members = {"note": type(note).__name__, "level": note.level.value, "says": note.summary}
            print(json.dumps({name: str(value) for name, value in members.items()}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
