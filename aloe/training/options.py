"""Our configuration in the words of OpenRLHF's command line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from aloe.config import DpoConfig, SftConfig
from aloe.errors import UserError
from aloe.training.accelerator import (
    attention,
    has_flash_attention,
    precision,
    tree_attention,
)
from aloe.training.protocol import Options

MIN_LR_RATIO = 0.1
"""The cosine ends at this share of the peak learning rate (OpenRLHF's default)."""


def openrlhf_arguments(options: Options, seed: int, tree_packing: bool) -> SimpleNamespace:
    """What OpenRLHF's strategy and trainers read from their arguments.

    Only names that they look up without a default are set; the rest stays OpenRLHF's own.

    Args:
        tree_packing: rows are packed as trees, see `aloe.training.tree_actor`.
    """
    from argparse import Namespace

    from openrlhf.utils.config import hierarchize

    packing = (
        isinstance(options, SftConfig)
        and options.packing
        and has_flash_attention()
        and not tree_packing
    )
    dpo = options if isinstance(options, DpoConfig) else DpoConfig()
    arguments = {
        **shared_arguments(options, seed, tree_packing),
        "ds.packing_samples": packing,
        "model.aux_loss_coef": 0.0,
        "model.nll_loss_coef": dpo.nll_coef,
        "model.label_smoothing": dpo.label_smoothing,
        "model.ipo_enable": dpo.ipo,
        "model.margin_loss_enable": False,
        "model.compute_fp32_loss_enable": True,
        "eval.steps": float("inf"),  # we evaluate and save, see aloe.training.trainee
        "ckpt.save_steps": float("inf"),
    }
    return hierarchize(Namespace(**arguments))


def shared_arguments(options: Options, seed: int, tree_packing: bool) -> dict[str, object]:
    """Those of `openrlhf_arguments` that PPO reads as well."""
    return {
        "local_rank": -1,  # from the environment
        "max_norm": options.max_norm,
        "train.seed": seed,
        "train.batch_size": options.batch_size,
        "train.micro_batch_size": options.micro_batch_size,
        "ds.zero_stage": options.zero_stage,
        "ds.param_dtype": precision(),
        "ds.attn_implementation": tree_attention() if tree_packing else attention(),
        "ds.tensor_parallel_size": 1,
        "logger.wandb.key": None,
        "logger.tensorboard_dir": None,
    }


def optimizer_settings(options: Options, steps: int) -> dict[str, Any]:
    """Adam and its schedule, as `DeepspeedStrategy.prepare` reads them."""
    return {
        "optim": "adam",
        "adam": {
            "lr": options.learning_rate,
            "betas": (0.9, 0.95),
            "eps": 1e-8,
            "weight_decay": 0.0,
        },
        "lr_scheduler": "cosine_with_min_lr",
        "lr_warmup_ratio": options.warmup_ratio,
        "min_lr_ratio": MIN_LR_RATIO,
        "max_norm": options.max_norm,
        "scheduler_steps": steps,
    }


def check_batches(key: str, options: Options, rows: int, ranks: int) -> None:
    """Whether ``rows`` training rows make at least one optimizer step over ``ranks`` processes.

    Raises:
        UserError: naming ``key``, the section of the configuration.
    """
    share = options.micro_batch_size * ranks
    if options.batch_size % share:
        raise UserError(
            f"{key}.batch_size: {options.batch_size}, expected a multiple of "
            f"micro_batch_size x ranks = {share}"
        )
    if rows < options.batch_size:
        raise UserError(
            f"{key}.batch_size: {options.batch_size}, but there are only {rows} training rows"
        )
