"""Write the run's HTML report.

ray job submit --working-dir . -- python jobs/write_report.py --config configs/paper.yaml
"""

from aloe.cli import job

if __name__ == "__main__":
    job("report")
