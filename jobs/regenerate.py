"""Run all stages: regenerate a data set, train on it and measure.

ray job submit --working-dir . -- python jobs/regenerate.py --config configs/paper.yaml
"""

from aloe.cli import job

if __name__ == "__main__":
    job("run")
