"""Let a policy train itself on the best of its own replies, round by round.

ray job submit --working-dir . -- python jobs/train_rounds.py --config configs/infer_small.yaml
"""

from aloe.cli import job

if __name__ == "__main__":
    job("train", "rounds")
