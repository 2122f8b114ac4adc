"""Entry point of a server process that `proxy.app.parent` starts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
import structlog
from pydantic import ValidationError

from proxy.app.server_process import ServerProcess
from proxy.cli.base import fail, run
from proxy.cli.serve import serve_until_stopped
from proxy.domain.errors import ConfigurationError, SmartserveError
from proxy.runtime.process_link import end_with_parent, read_order
from proxy.settings import Settings, share
from proxy.telemetry.logging import OUTPUT, configure_logs


def main() -> None:
    """Serve until the parent stops or replaces this process."""
    order: Mapping[str, Any] = orjson.loads(read_order())
    end_with_parent(order["parent"])
    structlog.contextvars.bind_contextvars(slot=order["slot"])
    try:
        settings = _settings_of(order)
        configure_logs(settings.log)
        with OUTPUT.in_background(shared=True):
            run(serve_until_stopped(settings, start=partial(ServerProcess.of, order)))
    except SmartserveError as error:
        fail(error)


def _settings_of(order: Mapping[str, Any]) -> Settings:
    try:
        settings = Settings.model_validate(order["settings"])
    except ValidationError as error:
        # The parent has accepted them: the program was replaced by another version meanwhile.
        advice = "the settings do not fit this version; restart the whole server"
        raise ConfigurationError([advice]) from error
    # Port 0 of the settings is resolved.
    server = settings.server.model_copy(update={"port": order["port"]})
    whole = settings.model_copy(update={"server": server})
    return share(whole, order["slot"], order["count"])


if __name__ == "__main__":
    main()
