"""Items of the ingest queue."""

from __future__ import annotations

from datetime import date

import pytest

from proxy.domain.ingest_item import (
    ItemOutcome,
    ItemState,
    Lease,
    LeasedItem,
    StepRecord,
    StepState,
    Upload,
)
from proxy.domain.media import DataType
from proxy.domain.pending_image import Step

UPLOAD = Upload(5, 7, "/temp_images/profiles/7-profile-1.jpg", None, None, DataType.PROFILE)


def item(state: StepState) -> LeasedItem:
    steps = dict.fromkeys(Step, StepRecord(state, 1))
    lease = Lease(5, 1, "token")
    day = date(2026, 11, 27)
    return LeasedItem(UPLOAD, lease, day, steps, 0, taken_over=False, report_due=False)


@pytest.mark.parametrize("state", StepState)
def test_only_a_completed_step_is_done(state: StepState) -> None:
    assert item(state).is_done(Step.RETRIEVE_FILE) == (state is StepState.COMPLETED)


def test_a_leased_item_runs_all_steps_unless_it_only_needs_analysis() -> None:
    assert not item(StepState.PENDING).analysis_only


def test_the_stored_states_do_not_change() -> None:
    # Rows of the queue contain them.
    assert [*ItemState] == ["queued", "done", "incomplete", "failed"]
    assert [*StepState] == ["pending", "completed", "failed"]


def test_the_labels_of_outcomes_do_not_change() -> None:
    # Dashboards and alerts name them.
    assert [*ItemOutcome] == ["done", "later", "failed", "owed", "seen", "unseen"]
