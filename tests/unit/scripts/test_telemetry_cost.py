"""The measurement of what telemetry costs."""

from __future__ import annotations

from bench import telemetry_cost

from sapo_vl.algorithm import telemetry


def test_the_cost_is_measured_on_what_the_loss_gives():
    """A made-up step has every field that a real one has."""
    values = telemetry.mini_batch_stats(telemetry_cost.report(8, 14), (1.0, 1.05))
    assert 0.99 < values["gate/mean"] <= 1
    assert telemetry.group_sums(telemetry_cost.groups(16, 14), 28)["responses"] == 16
