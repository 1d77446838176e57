"""Roll out one dialogue tree per persona.

ray job submit --working-dir . -- python jobs/rollout_dialogues.py --config configs/paper.yaml
"""

from aloe.cli import job

if __name__ == "__main__":
    job("dialogue", "rollout")
