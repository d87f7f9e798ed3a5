"""The rollout viewer: `sapo-vl view RUN`."""
