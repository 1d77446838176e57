"""What this package leans on in OpenRLHF: a new version that moves it is told by name."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def openrlhf_surface() -> dict[str, tuple[Any, set[str]]]:
    """What this package patches, subclasses or calls -> the parameters it counts on."""
    from aloe.training.accelerator import prepare

    prepare()
    from openrlhf.datasets.reward_dataset import RewardDataset
    from openrlhf.datasets.sft_dataset import SFTDataset
    from openrlhf.models import Actor, DPOLoss, PairWiseLoss, get_llm_for_sequence_regression
    from openrlhf.trainer.dpo_trainer import DPOTrainer
    from openrlhf.trainer.ray.launcher import BaseDistributedActor, RayActorGroup
    from openrlhf.trainer.rm_trainer import RewardModelTrainer
    from openrlhf.trainer.sft_trainer import SFTTrainer
    from openrlhf.utils import get_strategy
    from openrlhf.utils.deepspeed import DeepspeedStrategy
    from openrlhf.utils.distributed_sampler import DistributedSampler

    hook = {"args", "global_step", "step_bar", "logs_dict", "client_states"}
    trainer = {"model", "strategy", "optim", "scheduler", "tokenizer", "train_dataloader"}
    trainer |= {"eval_dataloader", "max_norm", "max_epochs"}
    pair = {"model", "chosen_ids", "c_mask", "reject_ids", "r_mask", "prompt_id_lens"}
    actor_options = {"attn_implementation", "param_dtype", "ds_config", "packing_samples"}
    fit = {"args", "consumed_samples", "num_update_steps_per_epoch"}
    return {
        "Actor": (Actor.__init__, actor_options),
        "Actor.forward": (Actor.forward, {"attention_mask", "return_logprobs", "return_output"}),
        "DPOLoss": (DPOLoss.__init__, {"beta", "label_smoothing", "ipo"}),
        "PairWiseLoss.forward": (PairWiseLoss.forward, {"chosen_reward", "reject_reward"}),
        "reward model": (get_llm_for_sequence_regression, actor_options | {"init_value_head"}),
        "SFTDataset.collate_fn": (SFTDataset.collate_fn, {"item_list"}),
        "RewardDataset.collate_fn": (RewardDataset.collate_fn, {"item_list"}),
        "SFTTrainer": (SFTTrainer.__init__, trainer),
        "SFTTrainer.fit": (SFTTrainer.fit, fit),
        "SFTTrainer hook": (SFTTrainer.save_logs_and_checkpoints, hook),
        "RewardModelTrainer": (RewardModelTrainer.__init__, trainer),
        "RewardModelTrainer.fit": (RewardModelTrainer.fit, fit),
        "RewardModelTrainer hook": (RewardModelTrainer.save_logs_and_checkpoints, hook),
        "DPOTrainer": (DPOTrainer.__init__, trainer | {"ref_model", "beta"}),
        "DPOTrainer.fit": (DPOTrainer.fit, fit),
        "DPOTrainer hook": (DPOTrainer.save_logs_and_checkpoints, hook),
        "DPOTrainer forward": (DPOTrainer.concatenated_forward, pair),
        "BaseDistributedActor": (
            BaseDistributedActor.__init__,
            {"world_size", "rank", "master_addr", "master_port"},
        ),
        "address": (BaseDistributedActor.get_master_addr_port, set()),
        "RayActorGroup": (
            RayActorGroup.__init__,
            {"num_nodes", "num_gpus_per_node", "ray_actor_type", "pg", "num_gpus_per_actor"},
        ),
        "RayActorGroup actors": (RayActorGroup._initiate_actors, {"pg", "num_gpus_per_actor"}),
        "RayActorGroup.run": (RayActorGroup.async_run_method, {"method_name"}),
        "get_strategy": (get_strategy, {"args"}),
        "setup_dataloader": (
            DeepspeedStrategy.setup_dataloader,
            {"replay_buffer", "batch_size", "pin_memory", "collate_fn", "sampler"},
        ),
        "save_model": (DeepspeedStrategy.save_model, {"model", "tokenizer", "output_dir"}),
        "all_reduce": (DeepspeedStrategy.all_reduce, {"data", "op"}),
        "get_grad_norm": (DeepspeedStrategy.get_grad_norm, {"model"}),
        "backward": (DeepspeedStrategy.backward, {"loss", "model"}),
        "optimizer_step": (DeepspeedStrategy.optimizer_step, {"model"}),
        "get_ds_eval_config": (DeepspeedStrategy.get_ds_eval_config, {"offload"}),
        "prepare": (DeepspeedStrategy.prepare, {"args"}),
        "DistributedSampler": (
            DistributedSampler.__init__,
            {"dataset", "num_replicas", "rank", "seed", "drop_last"},
        ),
        "DistributedSampler.set_epoch": (
            DistributedSampler.set_epoch,
            {"epoch", "consumed_samples"},
        ),
    }


def test_openrlhf_still_has_what_we_lean_on():
    gone = {}
    for name, (function, needed) in openrlhf_surface().items():
        missing = needed - set(inspect.signature(function).parameters)
        if missing:
            gone[name] = sorted(missing)
    assert not gone, f"OpenRLHF moved; adapt aloe/training to: {gone}"


def test_openrlhf_still_asks_for_cuda_where_we_answer():
    """A patch whose target has moved would silently change nothing."""
    openrlhf_surface()
    from openrlhf.models import actor, ring_attn_utils
    from openrlhf.utils import utils
    from openrlhf.utils.deepspeed import deepspeed

    asked = {
        'init_device_mesh(\n            "cuda"': deepspeed.DeepspeedStrategy.setup_distributed,
        "torch.cuda.set_device(": deepspeed.DeepspeedStrategy.setup_distributed,
        "torch.cuda.current_device()": deepspeed.DeepspeedStrategy.all_reduce,
        "from openrlhf.utils.utils import convert_to_torch_dtype": actor.Actor.__init__,
        "from flash_attn.bert_padding import": ring_attn_utils,
    }
    gone = [text for text, where in asked.items() if text not in inspect.getsource(where)]
    assert not gone, f"OpenRLHF moved; aloe/training/accelerator.py answers calls not made: {gone}"
    assert utils.convert_to_torch_dtype("fp32") == __import__("torch").float32


def test_openrlhfs_trainers_still_work_as_ours_rely_on():
    """Names of numbers, the order of calls, and attributes that have no signature."""
    openrlhf_surface()
    from openrlhf.models import model
    from openrlhf.trainer.dpo_trainer import DPOTrainer
    from openrlhf.trainer.ray.launcher import RayActorGroup
    from openrlhf.trainer.rm_trainer import RewardModelTrainer
    from openrlhf.trainer.sft_trainer import SFTTrainer
    from openrlhf.utils.deepspeed import DeepspeedStrategy
    from openrlhf.utils.distributed_sampler import DistributedSampler

    relied_on = [
        (DPOTrainer.fit, "self.ref_model, chosen_ids, c_mask, reject_ids, r_mask, prompt_id_lens"),
        (DPOTrainer.fit, 'logs_dict["loss_mean"]'),
        (DPOTrainer.fit, 'logs_dict["acc_mean"]'),
        (DPOTrainer.fit, '"consumed_samples": global_step * args.train.batch_size'),
        (DPOTrainer.concatenated_forward, "return_logprobs=True"),
        (RewardModelTrainer.fit, 'logs_dict["acc_mean"]'),
        (SFTTrainer.fit, 'logs_dict["loss_mean"]'),
        (SFTTrainer.fit, "return_logprobs=True"),
        (model._get_reward_model, 'self.register_buffer("mean"'),
        (model._get_reward_model, "self.value_head_prefix = value_head_prefix"),
        (RayActorGroup.__init__, "self._initiate_actors(pg, num_gpus_per_actor)"),
        (RayActorGroup, "self._actor_handlers"),
        (DistributedSampler, "self.consumed_indicies"),
        (DeepspeedStrategy, "def _unwrap_model"),
    ]
    gone = [text for where, text in relied_on if text not in inspect.getsource(where)]
    assert not gone, f"OpenRLHF moved; adapt aloe/training to what replaced: {gone}"


def ppo_surface() -> dict[str, tuple[Any, set[str]]]:
    """What `aloe.training.ppo` subclasses or calls -> the parameters it counts on."""
    from aloe.training.accelerator import prepare

    prepare()
    from openrlhf.trainer.ppo_trainer import BasePPOTrainer
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker as Maker
    from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
    from openrlhf.trainer.ray.launcher import BaseModelActor, RayActorGroup
    from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer
    from openrlhf.trainer.ray.ppo_critic import CriticPPOTrainer
    from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
    from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap
    from openrlhf.utils.agent import AgentExecutorBase

    rollout = RolloutRayActor.__ray_metadata__.modified_class
    batch = {"micro_train_batch_size", "dataloader_pin_memory"}
    asked = {"prompt", "label", "sampling_params", "max_length", "hf_tokenizer"}
    groups = {"actor_model_group", "critic_model_group", "reward_model_group"}
    return {
        "BasePPOTrainer": (
            BasePPOTrainer.__init__,
            groups | {"strategy", "reference_model_group", "vllm_engines", "tokenizer"},
        ),
        "BasePPOTrainer.train_step": (
            BasePPOTrainer.train_step,
            {"rollout_samples", "global_step"},
        ),
        "ActorPPOTrainer": (
            ActorPPOTrainer.__init__,
            batch | {"strategy", "actor", "ema_model", "actor_optim", "actor_scheduler"},
        ),
        "ActorPPOTrainer group": (ActorPPOTrainer._init_vllm_sync_group, {"backend"}),
        "CriticPPOTrainer": (
            CriticPPOTrainer.__init__,
            batch | {"strategy", "critic", "critic_optim", "critic_scheduler", "value_clip"},
        ),
        "BaseModelActor.execute_batch": (
            BaseModelActor.execute_batch,
            {"method_name", "all_data", "start_idx", "end_idx"},
        ),
        "RayActorGroup.batch": (RayActorGroup.async_run_method_batch, {"method_name"}),
        "Maker": (Maker.__init__, groups | {"initial_model_group", "kl_controller", "strategy"}),
        "Maker.make_experience": (Maker.make_experience, {"samples_list"}),
        "Maker advantages": (Maker.compute_advantages_and_returns, {"experiences"}),
        "Maker gae": (
            Maker.get_advantages_and_returns,
            {"values", "rewards", "action_mask", "gamma", "lambd"},
        ),
        "Maker returns": (Maker.get_cumulative_returns, {"rewards", "action_mask", "gamma"}),
        "Maker results": (Maker._flatten_results, {"refs", "duplicate_factor"}),
        "SamplesGenerator": (SamplesGenerator._process_response_into_experience, {"response"}),
        "AgentExecutorBase": (AgentExecutorBase.execute, asked | {"llm_engine", "images"}),
        "RolloutRayActor": (rollout.generate_responses, asked | {"num_samples"}),
        "WorkerWrap.update_weight": (WorkerWrap.update_weight, {"name", "dtype", "shape"}),
    }


def test_openrlhf_still_has_what_ppo_leans_on():
    gone = {}
    for name, (function, needed) in ppo_surface().items():
        missing = needed - set(inspect.signature(function).parameters)
        if missing:
            gone[name] = sorted(missing)
    assert not gone, f"OpenRLHF moved; adapt aloe/training/ppo to: {gone}"


def test_openrlhfs_ppo_still_works_as_ours_relies_on():
    """The order of calls, and names that have no signature."""
    ppo_surface()
    from openrlhf.trainer.ppo_trainer import BasePPOTrainer
    from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
    from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer
    from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

    relied_on = [
        (BasePPOTrainer.train_step, "self.experience_maker.make_experience_batch("),
        (BasePPOTrainer.train_step, 'experiences[0].info["reward"]'),
        (BasePPOTrainer.train_step, "self.broadcast_to_vllm()"),
        (BasePPOTrainer.train_step, 'status["timing/ppo_train"]'),
        (BasePPOTrainer.ppo_train, "global_steps > self.args.critic.freezing_steps"),
        (RemoteExperienceMaker.make_experience, "samples_list[0].rewards is None"),
        (RemoteExperienceMaker.make_experience, 'samples.info["kl"]'),
        (ActorPPOTrainer.broadcast_to_vllm, "engine.update_weight.remote(name, dtype=param.dtype"),
        (ActorPPOTrainer.broadcast_to_vllm, "self._model_update_group.broadcast(param.data, src=0"),
        (ActorPPOTrainer.broadcast_to_vllm, "engine.reset_prefix_cache.remote()"),
        (ActorPPOTrainer.training_step, 'metrics["actor_lr"]'),
        (ActorPPOTrainer.training_step, 'metrics["actor_grad_norm"]'),
        (ActorPPOTrainer.training_step, '"metrics": metrics'),
        (ActorPPOTrainer.training_step, 'experience.info["vllm_kl"]'),
        (NaiveReplayBuffer, "target_device"),
    ]
    gone = [text for where, text in relied_on if text not in inspect.getsource(where)]
    assert not gone, f"OpenRLHF moved; adapt aloe/training/ppo to what replaced: {gone}"


def test_vllm_still_keeps_weights_where_we_say():
    """Without it engines on a CPU could not take new weights."""
    from vllm.model_executor.layers import linear, utils

    assert "layer" in inspect.signature(utils.dispatch_cpu_unquantized_gemm).parameters
    imported = "from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm"
    assert imported in inspect.getsource(linear), "vLLM moved; adapt aloe/training/ppo/engine_sync"


def test_operators_are_built_by_the_ninja_of_our_environment():
    """Whoever starts the process: another version of ninja would build all of them again."""
    script = (
        "from aloe.training.accelerator import prepare; prepare();"
        "import shutil; print(shutil.which('ninja'))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split()[-1] == str(Path(sys.executable).parent / "ninja")
