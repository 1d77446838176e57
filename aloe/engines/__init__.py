"""Who speaks: vLLM in this process, an OpenAI-compatible server, or a script."""

from aloe.chat import Message
from aloe.engines.base import Completion, Engine, Request
from aloe.engines.speakers import Speakers, check_models, gpus_for

__all__ = ["Completion", "Engine", "Message", "Request", "Speakers", "check_models", "gpus_for"]
