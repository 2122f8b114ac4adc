"""Counts the modules of proxy/ that one request crosses: ``python -m tests.benchmarks.walk``.

The server runs in this process under a profile hook, which counts calls of functions in proxy/ and
each change from one module to another. Threads are counted as well, worker processes are not.
Resuming a coroutine is a call, so an await costs a switch for each module on its stack. What the
server's background tasks do at the same time is not part of a request to /serve.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType

import proxy
from proxy.cli import main as smartserve
from proxy.runtime.supervised_task import TaskSupervisor
from tests.benchmarks.servers import command
from tests.support.ports import free_port

_ROOT = f"{Path(proxy.__file__).parent}{os.sep}"
_ACCEPT = "Accept: image/avif,image/webp,*/*"
_FINAL_S = 180.0
"""Time limit for a final: it is rendered at idle priority."""
_INGEST_S = 120.0


@dataclass(slots=True)
class Walk:
    """What one request crossed."""

    name: str
    answer: str
    modules: int
    functions: int
    switches: int
    calls_by_module: dict[str, int] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)
    """The modules in the order in which control reached them, thread by thread: in which order the
    threads of a request run is up to the system."""


class Recorder:
    """A profile hook that can be switched on and off."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, str]] = Counter()
        self._paths: dict[int, list[str]] = {}
        self._on = False
        self._background = True

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        """Count a call of a function of proxy/; for `sys.setprofile`."""
        if not self._on or event != "call":
            return
        file = frame.f_code.co_filename
        if file.startswith(_ROOT) and (self._background or not _in_background(frame)):
            module = file[len(_ROOT) : -len(".py")]
            self._calls[module, frame.f_code.co_qualname] += 1
            path = self._paths.setdefault(threading.get_ident(), [])
            if path[-1:] != [module]:
                path.append(module)

    def record(
        self, name: str, work: Callable[[], str], settle_s: float, *, background: bool = False
    ) -> Walk:
        """Count what ``work`` causes, up to ``settle_s`` seconds after it has returned.

        Background tasks are counted only with ``background``, except for their work in threads.
        """
        self._calls.clear()
        self._paths.clear()
        self._background = background
        self._on = True
        answer = work()
        time.sleep(settle_s)
        self._on = False
        path = [module for own in self._paths.values() for module in own]
        by_module: Counter[str] = Counter()
        for (module, _), count in self._calls.items():
            by_module[module] += count
        return Walk(
            name,
            answer,
            len(by_module),
            len(self._calls),
            len(path),
            dict(by_module.most_common()),
            path,
        )


def _in_background(frame: FrameType | None) -> bool:
    """Return whether a supervised background task is on the stack."""
    while frame is not None:
        if frame.f_code is TaskSupervisor.run.__code__:
            return True
        frame = frame.f_back
    return False


class _Visitor:
    """Sends requests with curl, whose own calls the hook cannot see."""

    def __init__(self, port: int, data_dir: Path) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._data_dir = data_dir

    def request(self, path: str, *options: str, show: str = "%{http_code} %{size_download}") -> str:
        """What ``show`` says of the answer."""
        line = ["curl", "-s", "-o", os.devnull, "-w", show, "-H", _ACCEPT, *options]
        return subprocess.run(
            [*line, self._base + path], capture_output=True, text=True, check=False
        ).stdout

    def header(self, path: str, name: str) -> str:
        """One header of an answer."""
        return self.request(path, show=f"%header{{{name}}}")

    def upload(self, picture: Path) -> str:
        """Upload a profile image for user 4."""
        line = command("token", "--user", "4", "--data-dir", self._data_dir)
        token = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
        form = ("-F", f"profile_image=@{picture}")
        return self.request(
            "/users/me", "-X", "PATCH", "-H", f"Authorization: Bearer {token}", *form
        )

    def ingested(self) -> str:
        """Return the state of the upload when it is ingested; the server does not notice that."""
        states: list[str] = []

        def ended() -> bool:
            with closing(sqlite3.connect(self._data_dir / "smartserve.db")) as database:
                found = database.execute("SELECT state FROM ingest_items")
                states[:] = [state for (state,) in found]
            return bool(states) and not {"queued", "failed"} & {*states}

        self.wait_until(ended, _INGEST_S)
        return " ".join(states)

    def wait_until(self, done: Callable[[], bool], limit_s: float) -> None:
        """Poll a condition.

        Raises:
            TimeoutError: it does not hold within ``limit_s``.
        """
        until = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > until:
                raise TimeoutError
            time.sleep(0.3)


def _of_each(walks: Iterable[Walk]) -> Walk:
    """Return the walk with the fewest switches, with only the modules that all walks crossed.

    Background tasks use threads, and finals may be rendered, during one or the other.
    """
    found = list(walks)
    crossed = set.intersection(*(set(walk.calls_by_module) for walk in found))
    best = min(found, key=lambda walk: walk.switches)
    calls = {name: count for name, count in best.calls_by_module.items() if name in crossed}
    return replace(best, modules=len(crossed), calls_by_module=calls)


def _walks(recorder: Recorder, visitor: _Visitor) -> Iterable[Walk]:
    target = "/serve/2?size=grid"
    picture = Path(_ROOT) / "samples" / "kodak-15.jpg"
    visitor.wait_until(lambda: visitor.request("/readyz")[:3] == "200", 60)
    time.sleep(3)
    yield recorder.record("idle second", lambda: "", 1.0, background=True)
    yield _of_each(
        recorder.record("cold miss", partial(visitor.request, one), 0.15)
        for one in (target, "/serve/1?size=grid", "/serve/3?size=grid")
    )
    yield recorder.record("first draft hit", lambda: visitor.request(target), 0.1)
    yield _of_each(
        recorder.record("draft hit", lambda: visitor.request(target), 0.1) for _ in "123"
    )
    visitor.wait_until(lambda: "draft" not in visitor.header(target, "Cache-Status"), _FINAL_S)
    yield _of_each(
        recorder.record("final hit", lambda: visitor.request(target), 0.1) for _ in "123"
    )
    yield recorder.record("upload", lambda: visitor.upload(picture), 0.02, background=True)
    yield recorder.record("its ingest", visitor.ingested, 1.0, background=True)


def _control(recorder: Recorder, port: int, data_dir: Path, *, as_json: bool) -> None:
    code = 0
    try:
        for walk in _walks(recorder, _Visitor(port, data_dir)):
            if as_json:
                print(json.dumps(asdict(walk)), flush=True)
            else:
                _print(walk)
    except BaseException as error:  # noqa: BLE001 - the process must end whatever happened
        print(f"walk: {error!r}", file=sys.stderr, flush=True)
        code = 1
    os._exit(code)


def _print(walk: Walk) -> None:
    print(
        f"{walk.name}: {walk.modules} modules, {walk.switches} switches, "
        f"{walk.functions} functions ({walk.answer})"
    )
    print("   ", ", ".join(f"{name}:{count}" for name, count in walk.calls_by_module.items()))


def main() -> None:
    """Walk, print, and exit."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.walk", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object for each walk")
    arguments = parser.parse_args()
    recorder, port = Recorder(), free_port()
    data_dir = Path(tempfile.mkdtemp(prefix="smartserve-walk-"))
    threading.setprofile(recorder)
    sys.setprofile(recorder)
    threading.Thread(
        target=_control,
        args=(recorder, port, data_dir),
        kwargs={"as_json": arguments.json},
        daemon=True,
    ).start()
    sys.argv = ["smartserve", "serve", "--samples", f"--port={port}", f"--data-dir={data_dir}"]
    smartserve()


if __name__ == "__main__":
    main()
