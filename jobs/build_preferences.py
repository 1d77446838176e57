"""Build SFT rows, DPO pairs and RL prompts.

ray job submit --working-dir . -- python jobs/build_preferences.py --config configs/paper.yaml
"""

from aloe.cli import job

if __name__ == "__main__":
    job("preferences", "build")
