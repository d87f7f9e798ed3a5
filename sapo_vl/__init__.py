"""RL fine-tuning of vision-language models with SAPO (arXiv 2511.20347). The map:

    train.py      the SAPO loop: `train_step` is the algorithm, `main` a whole run
    sft.py        supervised warm-up on worked solutions
    schema.py     the records that travel: Sample, Prompt, Rollout, RolloutGroup, Reward, Verdict
    errors.py     errors of the user and of a run
    plugins.py    objects of your own by path: my/file.py:NAME

    config/       every config key with its default; reading and writing a config
    cli/          the `sapo-vl` commands and their options
    training/     the trainer, set-up, prompt sampling, rollouts, checkpoints, the plan of a run
    algorithm/    pure: SAPO, gates, objectives, advantages, telemetry, collapse detector
    learner/      the optimizer step on DeepSpeed: layouts, attention, log-probs, policy
    generator/    sampling of rollouts (vLLM, transformers), and their grading
    model/        the policy's files and weights, prompts, model families, the tiny model
    evaluation/   held-out accuracy, published benchmarks, scoring, paired comparison
    pages/        HTML for people: the rollout viewer, the report of a run
    runs/         a run's folder, files, signals, metrics, curves, terminal display
    system/       ranks and collectives; GPUs and environment variables
    lab/          grids of small runs over seeds, and their page
    data/         data sets: readers, sources, filters, procedural problems, the parquet store
    rewards/      verifiers, answer parsing, the worker pool, the rubric
    configs/      the shipped YAML files

Each file imports its own layer and lower ones only (tests/unit/test_layers.py).
"""

__version__ = "0.2.0"
