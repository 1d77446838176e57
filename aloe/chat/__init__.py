"""A conversation as a checkpoint's tokens and back, for every chat template.

`ChatFormat` is the one place that knows templates: engines, training rows, PPO's episodes and
evaluation ask it. `controls` keeps spelled control tokens out, `thinking` what a model thinks apart
from what it says, `characters` what is no character.
"""

from aloe.chat.characters import repaired, repaired_value
from aloe.chat.format import ChatFormat, ChatOptions
from aloe.chat.message import Message
from aloe.chat.options import checkpoint_options, options_of, policy_options, talked_with
from aloe.chat.thinking import split_thinking

__all__ = [
    "ChatFormat",
    "ChatOptions",
    "Message",
    "checkpoint_options",
    "options_of",
    "policy_options",
    "repaired",
    "repaired_value",
    "split_thinking",
    "talked_with",
]
