"""A fresh copy of the repository, and a shell in it."""

from __future__ import annotations

import re
import shutil
import site
import subprocess
import time
import urllib.request
import venv
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path

from tests.benchmarks.servers import ended, environment
from tests.support.ports import free_port
from tests.support.server import ROOT

_PATIENCE_S = 90
_SCRIPT = """#!{python}
import sys
from proxy.cli import main
sys.exit(main())
"""


def fresh_copy(place: Path) -> Path:
    """Copy the files of a clone, and create an environment as ``make`` does.

    The packages are those of this environment; ``.ci/run`` tests their installation.
    """
    for name in _tracked():
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    virtual = place / ".venv"
    venv.create(virtual, with_pip=False, symlinks=True)
    packages = Path(*virtual.glob("lib/python*/site-packages"))
    (packages / "here.pth").write_text(f"{place}\n")
    (packages / "packages.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    script = virtual / "bin" / "smartserve"
    script.write_text(_SCRIPT.format(python=virtual / "bin" / "python"))
    script.chmod(0o755)
    for marker in (".runtime", ".development"):
        (virtual / marker).touch()
    return place


def _tracked() -> list[str]:
    """Return the files of a clone, including files that are not committed yet."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (ROOT / ".git").exists() and shutil.which("git"):
        told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        return [name for name in told.split("\0") if name and (ROOT / name).exists()]
    hidden = re.compile(r"(^|/)(\.(?!ci|gitignore)|__pycache__|var/|.*\.egg-info)")
    files = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return [name for name in files if not hidden.search(name)]


class Terminal:
    """A shell in a directory: variables are kept, and servers keep running.

    Ports in the page are replaced by free ports, and ``/home/you`` by a temporary folder.
    """

    def __init__(self, place: Path) -> None:
        self.copy = fresh_copy(place / "smartserve")
        self.home = place / "home" / "you"
        self.home.mkdir(parents=True)
        self._place = place
        self._ports = {port: str(free_port()) for port in ("8080", "8000")}
        self._variables = place / "variables"
        self._variables.touch()
        self._serving: dict[str, ExitStack] = {}

    def here(self, text: str) -> str:
        """Return a text of the page with the ports of this machine."""
        for port, own in self._ports.items():
            text = re.sub(rf"\b{port}\b", own, text)
        return text

    def there(self, text: str) -> str:
        """Return a text of this machine with the ports of the page."""
        for port, own in self._ports.items():
            text = text.replace(f":{own}", f":{port}")
        return text.replace(str(self._place), "")

    def type(self, command: str) -> str:
        """Run a command and return its output.

        Raises:
            AssertionError: it fails.
        """
        script = f"set -euo pipefail -a\n{self.here(command)}\nexport -p > {self._variables}"
        done = subprocess.run(
            self._bash(script),
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
            cwd=self.copy,
            env=self._environment(),
        )
        output = self.there(done.stdout)
        assert done.returncode == 0, f"{command}\n{output}{done.stderr}"
        return output

    def serve(self, command: str, url: str) -> None:
        """Start a server; return when it answers at a URL of the page.

        A running server with the same command is stopped first.
        """
        self.stop(command)
        stack = self._serving[command] = ExitStack()
        log = stack.enter_context((self._place / "log").open("ab"))
        process = subprocess.Popen(
            self._bash(f"exec {self.here(command)}"),
            stdout=log,
            stderr=log,
            cwd=self.copy,
            env=self._environment(),
        )
        stack.enter_context(ended(process))
        deadline = time.monotonic() + _PATIENCE_S
        while not _answers(self.here(url)):
            assert process.poll() is None, (self._place / "log").read_text()
            assert time.monotonic() < deadline, f"{command} does not answer"
            time.sleep(0.05)

    def close(self) -> None:
        """Stop all servers."""
        for command in list(self._serving):
            self.stop(command)

    def stop(self, command: str) -> None:
        """Stop a server, if it runs."""
        with self._serving.pop(command, ExitStack()):
            pass

    def _bash(self, script: str) -> list[str]:
        return ["bash", "-c", f". {self._variables}\n{script}"]

    def _environment(self) -> dict[str, str]:
        """Return the environment of a user who has set only the port."""
        own = {"HOME": str(self.home), "PORT": self._ports["8080"], "no_proxy": "127.0.0.1"}
        return environment() | own


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False
