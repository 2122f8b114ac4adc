"""The entry point of a worker process."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest
from PIL import Image

from proxy.domain.analysis import AnalysisResult
from proxy.domain.formats import Format
from proxy.domain.media import ProbeResult
from proxy.domain.variant import Geometry
from proxy.domain.worker_protocol import (
    AnalyseJob,
    Ping,
    ProbeJob,
    RenditionSetResult,
    decode,
)
from proxy.rendering.worker.__main__ import run
from tests.rendering.worker.imaging import studio
from tests.rendering.worker.sandbox.processes import OPTIONS, inside
from tests.support.memory_files import memory_file


def test_a_worker_whose_loaders_leak_is_not_fit() -> None:
    found = inside(OPTIONS, "leaky-loaders")
    assert "loaders stay open that should be blocked" in found["unfit"]
    assert "matrixload" in found["unfit"]


SOURCE = studio.saved(Image.new("RGB", (40, 30), "teal"))


def test_each_kind_of_job_has_its_result() -> None:
    render = studio.job_of(Geometry(20, 15, 20, 15), studio.PROFILES[Format.PNG])
    with memory_file(SOURCE) as source, memory_file(b"") as target:
        assert isinstance(run(ProbeJob(studio.LIMITS), source, -1), ProbeResult)
        assert isinstance(run(AnalyseJob(studio.LIMITS), source, -1), AnalysisResult)
        assert isinstance(run(render, source, target), RenditionSetResult)
        with pytest.raises(TypeError):
            run(Ping(), source, target)


def started(options: dict[str, object]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A worker process and the server's end of its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-I", "-m", "proxy.rendering.worker", str(theirs.fileno())]
        process = subprocess.Popen(
            [*command, json.dumps(options)], pass_fds=(theirs.fileno(),), stderr=subprocess.PIPE
        )
    return process, ours


def test_a_worker_reports_its_capabilities_and_ends_with_the_socket() -> None:
    process, connection = started({**OPTIONS, "source_types": ["png"], "sandbox": False})
    with process, connection:
        info = decode(connection.recv(65536))
        assert info.source_types == ("png",)
        connection.close()
        assert process.wait(30) == 0


def test_a_worker_ends_with_a_server_that_has_ended_before() -> None:
    process, connection = started(OPTIONS)
    connection.close()
    with process:
        assert process.wait(60) == 0
