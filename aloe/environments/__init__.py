"""Conversations with people who have twins, as environments for reinforcement learning.

plain.py                  the environment itself: reset and step, no library
openrlhf_agent.py         OpenRLHF's agent function file
trl_environment.py        a class for TRL's `environment_factory`
verifiers_environment.py  taskset, environment and harness of `verifiers`
found_by_name/            for the path of `verifiers`, which imports by top-level names

The other three are imported by their names alone: what they need may not be installed.
"""

from aloe.environments.plain import Info, TwinsEnvironment

__all__ = ["Info", "TwinsEnvironment"]
