"""Pages for people: the rollout viewer and the report of a run."""
