"""Train a reward model on preference pairs.

ray job submit --working-dir . -- python jobs/train_reward.py --config configs/paper.yaml
"""

from aloe.cli import job

if __name__ == "__main__":
    job("train", "reward")
