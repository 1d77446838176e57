"""The process group over which weights go from the trainer to the rollout engines."""

from __future__ import annotations

from typing import Any

import torch

from aloe.machine import has_gpu


class GlooBroadcast:
    """The one method of vLLM's PyNcclCommunicator that OpenRLHF calls, for tensors in memory."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        options = torch.distributed.BroadcastOptions()
        options.rootRank, options.rootTensor = src, 0
        self._group.broadcast([tensor], options).wait()


def join(address: str, port: int, rank: int, world: int, device: Any) -> Any:
    """Meet the others: rank 0 is the trainer's first rank, the others are engines.

    NCCL on GPUs, as in OpenRLHF; gloo elsewhere.
    """
    if has_gpu():
        from openrlhf.utils.distributed_util import stateless_init_process_group

        return stateless_init_process_group(address, port, rank, world, device)
    from vllm.distributed.utils import stateless_init_torch_distributed_process_group

    return GlooBroadcast(
        stateless_init_torch_distributed_process_group(address, port, rank, world, "gloo")
    )
