"""Schemathesis checks the server against its OpenAPI document."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import KEY, running
from tests.support.server import Library

SOCKETS = "^/ws/"
"""It cannot open WebSockets, and takes the 426 without a handshake for a defect."""
_CHOICES = """
[[operations]]
include-path-regex = "^/api/media/[^/]+/(crops|alt)"
checks.positive_data_acceptance.expected-statuses = [
    "2xx", "400", "401", "403", "404", "429", "5xx",
]
"""
"""A schema cannot say that a crop ends within the image, or how many languages it has already."""
_IMAGES = """
[[operations]]
include-path-regex = "^/(serve|api/images)/"
checks.positive_data_acceptance.expected-statuses = [
    "2xx", "3xx", "400", "401", "403", "404", "429", "5xx",
]
"""
"""Nor that JPEG excludes a removed background."""
METADATA = "^/api/(analyze|extract|images_mvp/extract|standalone-metadata|health|metadata)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("chosen", "unchecked"),
    [
        (("--exclude-path-regex", f"{SOCKETS}|{METADATA}"), ""),
        # Random bytes are no image, which a schema cannot say.
        (
            ("--include-path-regex", METADATA, "--exclude-path-regex", SOCKETS),
            ",positive_data_acceptance",
        ),
    ],
    ids=["images", "metadata"],
)
def test_the_server_conforms_to_its_description(
    library: Library, tmp_path: Path, chosen: tuple[str, ...], unchecked: str
) -> None:
    data = library.copy(tmp_path / "data")
    (tmp_path / "schemathesis.toml").write_text(_CHOICES + _IMAGES)
    settings = {
        "SMARTSERVE_ADMIN__KEY": KEY,
        # Only then files are accepted with the header below.
        **({"SMARTSERVE_MAIN__KEY": KEY} if unchecked else {}),
        "SMARTSERVE_METADATA__TEMP_ROOT": str(tmp_path / "metaextract"),
        # Schemathesis also sends requests without a key and with wrong ones, from one address.
        "SMARTSERVE_ADMIN__MAX_FAILURES": "10000",
        # On a busy machine a render may exceed the default of 15 s; the 504 would be a finding.
        "SMARTSERVE_WORKERS__DEADLINE_S": "120",
    }
    with running("--data-dir", data, **settings) as (_, base):
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("schemathesis")), "run"),
                *(f"{base}/openapi.json", "--max-examples", "15", "--phases", "examples,fuzzing"),
                *("--checks", "all", "--exclude-checks", f"unsupported_method{unchecked}"),
                *(
                    "--header",
                    f"Authorization: Bearer {KEY}",
                    "--request-timeout",
                    "60",
                    "--max-response-time",
                    "60",
                ),
                *chosen,
                *("--seed", "1", "--no-color", "--suppress-health-check", "all"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "120"},
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
