"""From preference data to checkpoints, with OpenRLHF and DeepSpeed as Ray actors.

OpenRLHF's models, trainers, losses and strategy are used as they are, but for the following.
tests/integration/test_openrlhf.py fails with a clear message when a new version moves any of it.

accelerator.py, changed in place, without a GPU only:
  torch.cuda.set_device,       the strategy calls them whether or not there is a GPU; a CPU build
  current_device, synchronize  of torch raises
  init_device_mesh             the strategy asks for a mesh of "cuda" devices
  convert_to_torch_dtype       knows bf16 and fp16 only; a CPU wants float32
  NaiveReplayBuffer.__init__   takes "cuda:N" as the device of its samples
  flash_attn                   is imported by name although only packing and ring attention call it

Subclasses:
  hooks.Hooked                 save_logs_and_checkpoints of the three trainers: theirs logs to its
                               own files, evaluates on its own schedule, and keeps states that are
                               neither atomic nor on S3 and hold no random numbers
  dpo_worker.HookedDPOTrainer  concatenated_forward: the reference is asked, not computed
  tree_actor.TreeActor,        Actor.forward: rows of a tree in one pass; masks tell prompt from
  plain_actor.PlainActor       reply, so that logits are computed for replies only
  reward_model.py              the same for the reward model; and its mean and deviation, which
                               are lost when transformers 5 builds a model without memory
  actor_group.PlacedGroup      RayActorGroup._initiate_actors: one placement group for each
                               machine, and all ranks at once; theirs packs all devices wherever
                               they lie, and waits for the first rank's imports
  tree_sampler.TreeSampler     DistributedSampler.__iter__: rows of a tree stay together

Subclasses in ppo/:
  experience.TurnExperienceMaker  compute_advantages_and_returns: a reward for each turn; discounts
                               and values that skip the user's words. make_experience: the reward
                               model answers for each turn
  episode_actor.EpisodeActor   Actor.forward as PPO calls it: packed as in TreeActor
  workers.SyncingTrainer       _init_vllm_sync_group: gloo where there is no NCCL. training_step: no
                               norm of gradients, instead of 0, where ZeRO keeps none
  workers.*Worker              their loading: ZeRO states and random numbers are kept our way
  rollout_worker.RolloutWorker RolloutRayActor.__init__ and generation: our engine, its admission,
                               prefixes and samplers' seeds; update_weight names types in words, so
                               that nothing has to be unpickled
  engine_sync.SyncedWorker     WorkerWrap: the same group and device; and vLLM on a CPU keeps plain
                               weights, else new ones cannot be loaded
  controller.Controller        BasePPOTrainer: the loop around its train_step
"""

from aloe.training.ahead import announce, drop, is_started
from aloe.training.dpo import train_dpo
from aloe.training.ppo import train_ppo
from aloe.training.reward import train_reward
from aloe.training.sft import train_sft

__all__ = ["announce", "drop", "is_started", "train_dpo", "train_ppo", "train_reward", "train_sft"]
