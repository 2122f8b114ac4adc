"""A part on a machine of a Dask cluster; the cluster itself is in test_bulk.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.cli.bulk_dask import run_part


@pytest.mark.slow
def test_a_part_that_cannot_be_processed_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMARTSERVE_DATA_DIR", str(tmp_path))
    with pytest.raises(RuntimeError, match="there is no plan 7"):
        run_part(7)
