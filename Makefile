.PHONY: setup test lint train smoke clean

setup:   ## make or check the virtual environment
	bash scripts/setup.sh --dev

test:    ## lint, types, all tests
	bash scripts/test.sh

lint:    ## lint and types
	bash scripts/test.sh --lint

train:   ## the main job
	bash scripts/train_vl.sh

smoke:   ## all steps of the main job in two minutes
	bash scripts/train_vl.sh --config configs/train/smoke.yaml

clean:   ## remove build output and caches; keep runs/ and .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
