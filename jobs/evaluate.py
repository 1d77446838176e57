"""Measure checkpoints on held-out personas.

ray job submit --working-dir . -- python jobs/evaluate.py --config configs/paper.yaml
"""

from aloe.cli import job

if __name__ == "__main__":
    job("evaluate")
