"""The algorithm as pure functions: gates, SAPO, objectives, advantages, telemetry, collapse."""
