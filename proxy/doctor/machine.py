"""The machine: whether descriptors, memory and processors are enough for the settings."""

from __future__ import annotations

import asyncio
import os
import pwd
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.doctor import Diagnosis, failed, skipped, warned, well
from proxy.doctor.figures import as_bytes, counted
from proxy.doctor.process import ServerProcess, find
from proxy.runtime.open_file_limit import fitting
from proxy.settings import Settings

_CGROUP = Path("/sys/fs/cgroup")
_SERVER_BYTES = 256 * 1024 * 1024
"""What the server process takes besides its renditions."""
_FEW_SEATS = 100


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What was seen of the machine and of the server's process on it."""

    server: ServerProcess | None
    uid: int
    """Ours."""
    max_files: int | None
    """Of the server's process, or of ours; None: no limit."""
    cores: int
    quota: float | None
    """Processors' worth of time that its control group gets; None: all."""
    memory_bytes: int
    """Of the machine, or of its control group."""
    max_connections: int
    workers: int
    worker_bytes: int
    cache_bytes: int

    @property
    def wanted_bytes(self) -> int:
        """What all processes may take together; one worker more makes finals."""
        return (self.workers + 1) * self.worker_bytes + self.cache_bytes + _SERVER_BYTES


async def look(settings: Settings, port: int | None) -> MachineFacts:
    """Look at the machine; ``port`` is the server's, where it is this one's."""
    return await asyncio.to_thread(_look, settings, port)


def _look(settings: Settings, port: int | None) -> MachineFacts:
    server = None if port is None else find(port)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    own = None if hard == resource.RLIM_INFINITY else hard
    group = _group(server.pid if server else os.getpid())
    cores = server.cores if server else len(os.sched_getaffinity(0))
    return MachineFacts(
        server=server,
        uid=os.geteuid(),
        max_files=server.max_files if server else own,
        cores=cores,
        quota=_quota(group),
        memory_bytes=_memory(group),
        max_connections=settings.server.max_connections,
        workers=settings.workers.count or cores,
        worker_bytes=settings.workers.max_memory_bytes,
        cache_bytes=settings.renditions.memory_max_bytes,
    )


def _group(pid: int) -> Path:
    """The folder of a process's control group, of version 2 (cgroups(7)); else the topmost."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            if line.startswith("0::/"):
                found = _CGROUP / line.removeprefix("0::/")
                return found if found.is_dir() else _CGROUP
    return _CGROUP


def _quota(group: Path) -> float | None:
    with suppress(OSError, ValueError):
        allowed, period = (group / "cpu.max").read_text().split()
        return None if allowed == "max" else int(allowed) / int(period)
    return None


def _memory(group: Path) -> int:
    """Of the machine; where the group may take less, that."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        return min(whole, int((group / "memory.max").read_text()))
    return whole


def judge_user(seen: MachineFacts) -> Diagnosis:
    """Whether we are who the server is: else what we may says nothing of what it may."""
    if seen.server is None:
        return skipped("no process of this machine, that can be seen, listens on the server's port")
    if seen.server.uid == seen.uid:
        return well(f"{_name(seen.uid)}, as the server (process {seen.server.pid})")
    name = _name(seen.server.uid)
    advice = f"run it as the server's user, for it to be told of its rights: sudo -u {name} ..."
    return warned(f"{_name(seen.uid)}, and the server is {name}", advice)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def judge_descriptors(seen: MachineFacts) -> Diagnosis:
    """Whether there are descriptors for as many connections as the settings allow."""
    limit = seen.max_files
    whose = "the server" if seen.server else "this shell"
    if limit is None:
        return well(f"{whose} may open any number")
    now = f", {seen.server.files} are open" if seen.server else ""
    seats = fitting(seen.max_connections, limit)
    told = f"{whose} may open {limit}{now}; {counted(seats, 'connection')} fit below that"
    advice = (
        f"raise it to {seen.max_connections + 1024} or more (LimitNOFILE= of the unit, ulimit -n,"
        " --ulimit nofile=), or lower server.max_connections"
    )
    if seats < min(_FEW_SEATS, seen.max_connections):
        return failed(told, advice)
    return warned(told, advice) if seats < seen.max_connections else well(told)


def judge_memory(seen: MachineFacts) -> Diagnosis:
    """Whether all workers at their limit still fit."""
    told = (
        f"{as_bytes(seen.memory_bytes)}; {counted(seen.workers, 'worker')} and one for finals may"
        f" take {as_bytes(seen.wanted_bytes)} with the server"
    )
    if seen.wanted_bytes <= seen.memory_bytes:
        return well(told)
    advice = (
        "lower workers.count, workers.max_memory_bytes or renditions.memory_max_bytes: large"
        " pictures at once end with the kernel killing processes"
    )
    return warned(told, advice)


def judge_processors(seen: MachineFacts) -> Diagnosis:
    """Whether there are no more workers than processors."""
    usable = seen.cores if seen.quota is None else min(float(seen.cores), seen.quota)
    quota = "" if seen.quota is None else f" with a quota of {seen.quota:g}"
    told = f"{counted(seen.workers, 'worker')} on {counted(seen.cores, 'core')}{quota}"
    if seen.workers <= max(1.0, usable):
        return well(told)
    advice = (
        f"set workers.count = {max(1, int(usable))}: more take turns, and each picture is later"
    )
    return warned(told, advice)
