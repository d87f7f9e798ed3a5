.PHONY: setup test lint train smoke clean

setup:   ## make or check the environment
	bash scripts/setup.sh --dev

test:    ## lint, types, all tests
	bash scripts/test.sh

lint:    ## lint and types
	bash scripts/test.sh --lint

train:   ## the main job
	bash scripts/train_vl.sh

smoke:   ## the same loop in two minutes
	bash scripts/train_vl.sh --config configs/train/smoke.yaml

clean:   ## what tools leave behind; runs/ and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
