"""Runs the parent of several server processes; ``smartserve serve`` imports it if there are any."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

from proxy.app.parent import ServerParent
from proxy.app.startup_checks import check_start
from proxy.cli.base import CLOSE_S, address_recorded, end_process_after, print_line
from proxy.runtime.stop_signals import StopSignals
from proxy.runtime.systemd_notify import ServiceManager
from proxy.settings import Settings
from proxy.web.server.inherited_sockets import SocketOwner

_GRACE_S = 3.0
"""The processes are killed if they need longer than their time; then this one ends."""


async def run_parent(settings: Settings, read: Callable[[], Settings], *, samples: bool) -> int:
    """Serve with several processes until a signal; return the exit code.

    Raises:
        ConfigurationError: the address cannot be bound.
    """

    def reloaded() -> Settings:
        new = read()
        check_start(new)
        return new

    sockets = SocketOwner()
    await sockets.bind(settings.server, settings.process_count)
    with closing(sockets), ExitStack() as stack:

        def ready(lines: list[str]) -> None:
            # The first process has created the data directory.
            stack.enter_context(address_recorded(settings, sockets.port))
            for line in lines:
                print_line(line)

        parent = ServerParent(
            settings,
            sockets,
            reload=reloaded,
            manager=ServiceManager.of(os.environ),
            close_s=CLOSE_S,
            samples=samples,
        )
        on_first = partial(end_process_after, parent.stop_s + _GRACE_S)
        signals = StopSignals.listen(on_first, reload=parent.reload)
        return await parent.run(signals, ready)
