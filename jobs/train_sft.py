"""Fine-tune on preferred replies.

ray job submit --working-dir . -- python jobs/train_sft.py --config configs/paper.yaml
"""

from aloe.cli import job

if __name__ == "__main__":
    job("train", "sft")
