"""Multi-turn PPO: a policy that talks with simulated users and is rewarded turn by turn.

stage.py        what is checked, placed and started
controller.py   the updates: roll out, reward, train, sync, look, keep
rollouts.py     which episodes are played, and by which engine
episode.py      one conversation of policy and simulated user, OpenRLHF's agent
rollout_worker.py  a vLLM engine that speaks for the policy; engine_sync.py is its weights' end
workers.py      policy, reference, critic and reward model, each on devices of its own
sync_check.py   whether the engines speak with the weights that are trained
experience.py   from conversations to OpenRLHF's experiences; credit.py is the arithmetic
numbers.py      what episodes come to; guards.py says which of it looks like a gamed reward
dialogues.py    what the report shows
position.py     from where a killed run goes on
"""

from aloe.training.ppo.stage import train_ppo

__all__ = ["train_ppo"]
