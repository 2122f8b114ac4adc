"""A container without Docker: ``unshare --mount --pid --fork python -m tests.deploy.container``.

Implements the restrictions of the Dockerfile and of compose.yaml: a read-only root that contains
only programs, a writable /tmp and data directory, another user, no capability, no new privileges,
and a filter that refuses the system calls that Docker's default profile refuses. The command
becomes process 1.
"""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyseccomp

from tests.support.server import ROOT

UID = 10001
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")
_REFUSED = """
    acct add_key bpf chroot clock_settime delete_module fanotify_init finit_module fsconfig fsmount
    fsopen fspick get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm
    iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind mount mount_setattr move_mount
    move_pages open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise
    quotactl quotactl_fd reboot request_key set_mempolicy sethostname setdomainname setns
    settimeofday swapoff swapon syslog umount2 unshare userfaultfd vhangup
"""
"""System calls that Docker's default seccomp profile refuses without capabilities."""
_NEW_NAMESPACES = 0x7E020000


def main() -> None:
    """Build the root, enter it, drop all privileges, and execute the command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="", help="System calls that are allowed, no others.")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    if given.root == Path("/"):
        if given.only:
            _allow(given.only.split(","))
        else:
            _refuse()
        os.execvp(given.command[0], given.command)
    _build(given.root, given.data)
    os.chroot(given.root)
    os.chdir("/var/lib/smartserve")
    again = [sys.executable, "-m", "tests.deploy.container", f"--only={given.only}"]
    inside = [*again, "/", "/", "--", *given.command]
    locked = [
        *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"),
        *("--inh-caps=-all", "--bounding-set=-all", "--"),
    ]
    os.environ["PYTHONPATH"] = str(ROOT)
    os.execvp(locked[0], [*locked, *inside])


def _build(root: Path, data: Path) -> None:
    _mount("--make-rprivate", "/")
    _mount("-t", "tmpfs", "-o", "mode=755", "root", root)
    for place in ("dev", "proc", "tmp", "var/lib/smartserve"):
        (root / place).mkdir(parents=True, exist_ok=True)
    # Before the mounts: this repository may be below /tmp.
    _mount("-t", "tmpfs", "-o", "size=64m,mode=1777", "tmp", root / "tmp")
    for place in _shown():
        target = root / place.lstrip("/")
        if Path(place).is_symlink():
            target.symlink_to(Path(place).readlink())
            continue
        target.mkdir(parents=True, exist_ok=True)
        _mount("--rbind", place, target)
        _mount("-o", "remount,bind,ro", target)
    _mount("--rbind", "/dev", root / "dev")
    _mount("-t", "proc", "proc", root / "proc")
    _mount("--bind", data, root / "var/lib/smartserve")
    _mount("-o", "remount,ro", root)


def _shown() -> Iterator[str]:
    """Return the directories of the system's programs, Python, its environment, this repository."""
    yield from (place for place in _SYSTEM if Path(place).exists())
    yield from dict.fromkeys((sys.base_prefix, str(ROOT)))


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def _allow(names: Iterable[str]) -> None:
    """Refuse all but these; names of other architectures' system calls are skipped."""
    chosen = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in names:
        if pyseccomp.resolve_syscall(pyseccomp.system_arch(), name) >= 0:
            chosen.add_rule(pyseccomp.ALLOW, name)
    chosen.load()


def _refuse() -> None:
    """Refuse as Docker does; system calls unknown to the kernel cannot be called anyway."""
    chosen = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in _REFUSED.split():
        if pyseccomp.resolve_syscall(pyseccomp.system_arch(), name) >= 0:
            chosen.add_rule(refuse, name)
    for bit in (1 << at for at in range(32) if _NEW_NAMESPACES >> at & 1):
        wanted = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, bit, bit)
        chosen.add_rule(refuse, "clone", wanted)
    chosen.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    chosen.load()


if __name__ == "__main__":
    main()
