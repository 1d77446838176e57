"""Starting an engine from its configuration. Each backend's import is heavy and made on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from aloe.config import ModelConfig, OpenAIModel, ScriptedModel, VerifiableModel, VllmModel
from aloe.engines.base import Engine
from aloe.engines.vllm_core import MODULES

if TYPE_CHECKING:
    from aloe.engines.supervised import SupervisedEngine


def imports_of(models: Iterable[ModelConfig]) -> tuple[str, ...]:
    """Modules that take long to import and that engines of these models need."""
    return MODULES if any(isinstance(model, VllmModel) for model in models) else ()


def start_engine(
    name: str,
    model: ModelConfig,
    share_cores: bool,
    trouble: Callable[[str], None] | None = None,
) -> Engine:
    """An engine inside this process.

    Args:
        name: model name that completions carry.
        share_cores: other engines compute on this machine too.
        trouble: hears of each attempt that a server has not answered, while the call goes on.
    """
    match model:
        case VllmModel():
            return start_vllm(name, model, share_cores)
        case OpenAIModel():
            from aloe.engines.openai import OpenAIEngine

            return OpenAIEngine(name, model, trouble=trouble)
        case ScriptedModel():
            from aloe.engines.scripted import ScriptedEngine

            return ScriptedEngine(name, model)
        case VerifiableModel():
            from aloe.engines.verifiable import VerifiableEngine

            return VerifiableEngine(name, model)


def start_vllm(name: str, model: VllmModel, share_cores: bool) -> SupervisedEngine:
    """A vLLM engine that is replaced when it dies or hangs; see `start_engine`."""
    from aloe.engines.supervised import SupervisedEngine
    from aloe.engines.vllm import VllmEngine

    return SupervisedEngine(
        name, lambda: VllmEngine(name, model, share_cores), model.stall_timeout_s
    )
