"""Our PPO settings in the words of OpenRLHF's command line."""

from __future__ import annotations

from types import SimpleNamespace

from aloe.config import PpoConfig
from aloe.training.accelerator import attention, precision, tree_attention
from aloe.training.options import MIN_LR_RATIO


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
        "local_rank": -1,  # from the environment
        "max_norm": options.max_norm,
        "train.seed": seed,
        "train.batch_size": options.batch_size,
        "train.micro_batch_size": options.micro_batch_size,
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
        "ds.zero_stage": options.zero_stage,
        "ds.param_dtype": precision(),
        "ds.attn_implementation": tree_attention() if packs_trees else attention(),
        "ds.packing_samples": False,
        "ds.tensor_parallel_size": 1,
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
        "logger.wandb.key": None,
        "logger.tensorboard_dir": None,
        "ckpt.best_metric_key": "none",
    }
    return hierarchize(Namespace(**arguments))


def adam(options: PpoConfig, learning_rate: float) -> dict[str, object]:
    """Adam and its schedule over all updates, as `DeepspeedStrategy.prepare` reads them."""
    return {
        "optim": "adam",
        "adam": {"lr": learning_rate, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0},
        "lr_scheduler": "cosine_with_min_lr",
        "lr_warmup_ratio": options.warmup_ratio,
        "min_lr_ratio": MIN_LR_RATIO,
        "max_norm": options.max_norm,
        "scheduler_steps": options.updates * options.passes,
    }
