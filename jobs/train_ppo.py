"""Reinforcement learning in conversation with simulated users.

ray job submit --working-dir . -- python jobs/train_ppo.py --config configs/paper.yaml
"""

from aloe.cli import job

if __name__ == "__main__":
    job("train", "ppo")
