"""The objectives: SAPO and those it is compared with, on one code path.

`objective: NAME` chooses one of OBJECTIVES, `objective: my/loss.py:loss` one of your own. The
config section of that name holds its options (`sapo.tau_neg`, `grpo.high`, `loss.delta`); the
section `algorithm` holds the options shared by all. A plug-in is a function

    loss(inputs: LossInputs, options: Options) -> Surrogate

with a pydantic class `Options` in the same file if it has options. A plug-in that differs in more
than its loss is an `ObjectiveSpec` instead.
"""

from __future__ import annotations

from sapo_vl import plugins
from sapo_vl.algorithm import sapo
from sapo_vl.algorithm.kl import penalized
from sapo_vl.algorithm.objectives import cispo, dapo, dr_grpo, grpo, gspo
from sapo_vl.algorithm.objectives.spec import (
    MEAN_OF_MEANS,
    TOKEN_MEAN,
    Aggregation,
    NoOptions,
    Objective,
    ObjectiveSpec,
    mean_over_limit,
)
from sapo_vl.config import Config, parse_section, section_of
from sapo_vl.config.sections import RewardTerm
from sapo_vl.errors import ConfigError

OBJECTIVES: dict[str, ObjectiveSpec] = {
    "sapo": ObjectiveSpec(
        sapo.loss,
        sapo.Options,
        is_gated=lambda options: options.gate != "none",
        temperatures=lambda o: (o.tau_pos, o.tau_neg) if o.gate == "sigmoid" else None,
    ),
    "grpo": ObjectiveSpec(grpo.loss, grpo.Options),
    "gspo": ObjectiveSpec(gspo.loss, gspo.Options, by_token=False),
    "dapo": ObjectiveSpec(
        dapo.loss,
        dapo.Options,
        "token_mean",
        max_resample_rounds=dapo.MAX_RESAMPLE_ROUNDS,
        overlong_penalty=True,
    ),
    "cispo": ObjectiveSpec(cispo.loss, cispo.Options, "token_mean"),
    "dr_grpo": ObjectiveSpec(
        dr_grpo.loss, dr_grpo.Options, "mean_over_limit", normalize_advantages=False
    ),
}
"""All built-in objectives by name."""


def spec(config: Config) -> ObjectiveSpec:
    """Return the configured objective's spec. Raises ConfigError naming `objective`."""
    if config.objective in OBJECTIVES:
        return OBJECTIVES[config.objective]
    plugin = plugins.load(config.objective, "objective", OBJECTIVES)
    if isinstance(plugin.value, ObjectiveSpec):
        return plugin.value
    if not callable(plugin.value):
        raise ConfigError(f"objective: {config.objective} is neither a function nor ObjectiveSpec")
    return ObjectiveSpec(plugin.value, vars(plugin.module).get("Options", NoOptions))


def resolve(config: Config) -> Config:
    """Return the config with the objective's options checked and their defaults filled in.

    An objective with an overlong penalty (DAPO) adds its reward term, unless it is there already.
    Raises ConfigError for an unknown objective or option.
    """
    chosen = spec(config)
    options = parse_section(chosen.options, config.objective_options, section_of(config.objective))
    changes: dict[str, object] = {"objective_options": options.model_dump(mode="json")}
    if chosen.overlong_penalty and all(term.fn != "overlong" for term in config.rewards):
        changes["rewards"] = [*config.rewards, RewardTerm(fn="overlong", weight=-1.0)]
    return config.model_copy(update=changes)


def build(config: Config) -> Objective:
    """Return the configured objective with its options bound. Raises ConfigError, see `resolve`."""
    chosen, algorithm = spec(config), config.algorithm
    options = parse_section(chosen.options, config.objective_options, section_of(config.objective))
    aggregations = {
        "mean_of_means": MEAN_OF_MEANS,
        "token_mean": TOKEN_MEAN,
        "mean_over_limit": mean_over_limit(config.rollout.max_new_tokens),
    }
    normalize, rounds = algorithm.normalize_advantages, config.rollout.max_resample_rounds
    return Objective(
        loss=penalized(lambda inputs: chosen.loss(inputs, options), algorithm.kl_coef),
        aggregation=aggregations[chosen.aggregation],
        by_token=chosen.by_token,
        importance_cap=None if algorithm.staleness == "gate" else algorithm.importance_cap,
        normalize_advantages=chosen.normalize_advantages if normalize is None else normalize,
        max_resample_rounds=chosen.max_resample_rounds if rounds is None else rounds,
        is_gated=chosen.is_gated(options),
        temperatures=chosen.temperatures(options),
    )


__all__ = ["OBJECTIVES", "Aggregation", "Objective", "ObjectiveSpec", "build", "resolve", "spec"]
