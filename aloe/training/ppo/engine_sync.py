"""The engine's end of a weight sync; vLLM loads this module in the process that holds the weights.

Import prepares the process: it must come before the model is built.
"""

from __future__ import annotations

from typing import Any

from aloe.training.accelerator import prepare

prepare()

import torch  # noqa: E402  (nothing of OpenRLHF may be imported before prepare)
from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap  # noqa: E402

from aloe.engines.vllm_worker import CountedThreads  # noqa: E402
from aloe.machine import has_gpu  # noqa: E402
from aloe.training.ppo.weight_group import join  # noqa: E402


def _keep_weights_plain() -> None:
    # On a CPU vLLM packs the weights of linear layers and empties the originals, so that new ones
    # could never be loaded into them.
    from vllm.model_executor.layers import utils

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = plain


if not has_gpu():
    _keep_weights_plain()


class SyncedWorker(CountedThreads, WorkerWrap):  # type: ignore[misc]
    """OpenRLHF's worker extension, on the device that is there."""

    def init_process_group(
        self, address: str, port: int, rank_offset: int, world_size: int, *_: Any
    ) -> None:
        rank = torch.distributed.get_rank() + rank_offset
        self._group = join(address, port, rank, world_size, self.device)

    def update_weight(self, name: str, dtype: str, shape: list[int], *_: Any) -> None:
        """Take one parameter from the trainer.

        Args:
            dtype: name of a torch type, "float32".
        """
        weight = torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
        stream = torch.cuda.current_stream() if has_gpu() else None
        self._group.broadcast(weight, src=0, stream=stream)
        self.model_runner.model.load_weights(weights=[(name, weight)])
