"""The record of a response."""

from __future__ import annotations

from proxy.domain.outcome import Origin, Outcome


def test_an_outcome_without_an_image_has_the_label_none() -> None:
    outcome = Outcome("healthz")
    assert (outcome.size, outcome.format, outcome.source) == ("none", "none", Origin.NONE)
    assert (outcome.media_id, outcome.variant, outcome.error) == (None, None, None)


def test_a_changed_outcome_keeps_its_other_fields() -> None:
    outcome = Outcome("serve", media_id=5)._replace(source=Origin.DISK)
    assert (outcome.route, outcome.media_id, outcome.source) == ("serve", 5, "disk")


def test_the_labels_of_origins_do_not_change() -> None:
    # Dashboards and alerts name them.
    assert {str(one) for one in Origin} == {
        *("memory", "disk", "render", "coalesced", "fallback", "not_modified", "none")
    }
