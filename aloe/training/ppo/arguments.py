"""Our PPO settings in the words of OpenRLHF's command line."""

from __future__ import annotations

from types import SimpleNamespace

from aloe.config import PpoConfig
from aloe.training.options import shared_arguments


def ppo_arguments(
    options: PpoConfig, seed: int, engines: int, packs_trees: bool
) -> SimpleNamespace:
    """What OpenRLHF's PPO reads from its arguments, in the driver and in every worker.

    Args:
        engines: rollout engines.
        packs_trees: rows are packed as trees, see `aloe.training.tree_actor`.
    """
    from argparse import Namespace

    from openrlhf.utils.config import hierarchize

    arguments = {
        **shared_arguments(options, seed, packs_trees),
        "train.max_epochs": options.passes,
        "train.dynamic_batch_enable": False,
        "train.colocate_all": False,
        "train.colocate_actor_ref": False,
        "train.colocate_critic_reward": False,
        "train.async_enable": options.ahead,
        "rollout.batch_size": options.batch_size // options.samples,
        "rollout.n_samples_per_prompt": options.samples,
        "rollout.micro_batch_size": options.micro_batch_size,
        "rollout.temperature": options.sampling.temperature,
        "ds.packing_samples": False,
        "ds.ring_attn_size": 1,
        "ds.enable_sleep": False,
        "ds.value_head_prefix": "score",
        "actor.aux_loss_coef": 0.0,
        "actor.eps_clip_low_high": (options.clip, options.clip),
        "actor.dual_clip": None,
        "actor.loss_agg_mode": "token-mean",
        "actor.policy_loss_type": "ppo",
        "actor.entropy_coef": options.entropy_coef,
        "critic.freezing_steps": options.critic_warmup - 1,
        "algo.advantage.estimator": options.estimator,
        "algo.advantage.gamma": options.gamma,
        "algo.advantage.lambd": options.lambd,
        # Engine and trainer differ in rounding and, with `ahead`, by one update: tokens on which
        # they disagree by more than these factors do not count.
        "algo.advantage.is_correction_level": "token",
        "algo.advantage.is_correction_mode": "mask",
        "algo.advantage.is_correction_gating": "ratio",
        "algo.advantage.is_correction_threshold": [0.5, 5.0],
        "algo.kl.init_coef": options.kl_coef,
        "algo.kl.target": options.kl_target,
        "algo.kl.horizon": options.kl_horizon,
        "algo.kl.estimator": "k1",
        "algo.kl.use_loss": False,
        "algo.kl.unbiased_gradient": False,
        "vllm.num_engines": engines,
        "vllm.tensor_parallel_size": 1,
        "vllm.enable_sleep": False,
        "vllm.enable_prefix_caching": True,
        "vllm.sync_backend": "aloe",  # anything but nccl: no handles of CUDA memory
        "vllm.sync_with_ray": False,
        "ckpt.best_metric_key": "none",
    }
    return hierarchize(Namespace(**arguments))
