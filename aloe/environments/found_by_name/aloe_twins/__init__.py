"""The name by which `verifiers` finds the environment: it imports top-level packages alone."""

from aloe.environments.verifiers_environment import ChatHarness, TwinsEnv, TwinsTaskset

__all__ = ["ChatHarness", "TwinsEnv", "TwinsTaskset"]
