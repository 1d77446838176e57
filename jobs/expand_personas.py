"""Grow, filter and pair personas.

ray job submit --working-dir . -- python jobs/expand_personas.py --config configs/paper.yaml
"""

from aloe.cli import job

if __name__ == "__main__":
    job("personas", "expand")
