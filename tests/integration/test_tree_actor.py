"""Log-probs, gradients and losses of packed trees against one row after the other."""

import random
from array import array
from itertools import groupby, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aloe.training.data import PROMPT, REPLY, Encoded

import aloe.training.worker  # isort: skip  # noqa: F401  (first: it prepares the process)

import torch
import torch._dynamo
from openrlhf.models import Actor, DPOLoss, get_llm_for_sequence_regression
from openrlhf.trainer.dpo_trainer import DPOTrainer
from openrlhf.trainer.rm_trainer import RewardModelTrainer
from small_llama import assert_equal_gradients, small_llama
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MistralConfig

from aloe.training import accelerator
from aloe.training.plain_actor import PlainActor
from aloe.training.reward_model import load_reward_model
from aloe.training.tree_actor import TreeActor, why_not
from aloe.training.tree_sampler import TreeSampler

VOCABULARY = 37


@pytest.fixture(scope="module")
def model():
    return small_llama(VOCABULARY)


def actors(model):
    plain, packed = Actor(model), TreeActor(model)
    plain.packing_samples = False
    return plain, packed


def masks_of(mask, marked):
    """OpenRLHF's own models know 0 and 1 only."""
    return mask if marked else mask.clamp(max=1)


def dialogue_tree(seed: int, longer: int = 1) -> list[Encoded]:
    """Rows of a random tree: up to six turns, one to four replies each, one or two go on."""
    rng = random.Random(seed)

    def words(least: int, most: int) -> list[int]:
        return [rng.randrange(VOCABULARY) for _ in range(rng.randint(least, most * longer))]

    rows: list[Encoded] = []

    def grow(history: list[int], turns: int) -> None:
        prompt = history + words(1, 6)
        replies = [words(1, 9) for _ in range(rng.randint(1, 4))]
        rows.extend(Encoded(array("i", prompt + reply), len(prompt)) for reply in replies)
        if turns > 1:
            for reply in rng.sample(replies, min(len(replies), rng.choice([1, 1, 2]))):
                grow(prompt + reply, turns - 1)

    grow(words(1, 12), rng.randint(1, 6))
    return rows[:40]


def padded(rows, marked):
    longest = max(len(row.ids) for row in rows) + random.Random(len(rows)).randrange(4)
    ids = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = row.tensor()
        mask[index, : len(row.ids)] = row.mask()
    return ids, masks_of(mask, marked)


def on_device(actor, tensors):
    device = next(actor.parameters()).device
    return [tensor.to(device) for tensor in tensors]


def one_by_one(plain, rows):
    """Log-probs of each reply's tokens, of one sequence per row and call."""
    found = []
    for row in rows:
        ids, mask = on_device(plain, padded([row], marked=False))
        log_probs = plain(ids, attention_mask=mask, return_logprobs=True)
        found.append(log_probs[0, row.prompt_length - 1 : len(row.ids) - 1])
    return found


def as_tree(packed, rows):
    ids, mask = on_device(packed, padded(rows, marked=True))
    log_probs = packed(ids, attention_mask=mask, return_logprobs=True)
    assert log_probs.shape == (len(rows), ids.shape[1] - 1)
    assert not log_probs[mask[:, 1:] != REPLY].any()
    return [log_probs[i, row.prompt_length - 1 : len(row.ids) - 1] for i, row in enumerate(rows)]


def weighted_sum(found):
    """Of all replies' log-probs, so that no two replies count alike."""
    return sum(row.sum() * weight for weight, row in enumerate(found, 1))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3))
@torch.no_grad()
def test_log_probs_of_a_tree_are_those_of_its_rows(model, seed, trees):
    plain, packed = actors(model)
    rows = [row for number in range(trees) for row in dialogue_tree(seed + number)]
    random.Random(seed).shuffle(rows)
    for found, expected in zip(as_tree(packed, rows), one_by_one(plain, rows), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(10))
def test_so_are_the_gradients(model, seed):
    rows = dialogue_tree(seed)

    plain, packed = actors(model)
    assert_equal_gradients(
        model,
        lambda: weighted_sum(one_by_one(plain, rows)),
        lambda: weighted_sum(as_tree(packed, rows)),
    )


@torch.no_grad()
def test_each_token_is_computed_once(model):
    rows = dialogue_tree(3)
    packed = actors(model)[1]
    as_tree(packed, rows)
    beginnings = {tuple(row.ids[:n]) for row in rows for n in range(1, len(row.ids) + 1)}
    assert packed.computed == len(beginnings) < sum(len(row.ids) for row in rows)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("loss", [DPOLoss(0.3), DPOLoss(0.3, 0.1), DPOLoss(0.3, ipo=True)])
def test_the_dpo_loss_is_openrlhfs(model, seed, loss):
    """Loss and NLL term of OpenRLHF's own trainer, with its own policy and with ours."""
    rows = dialogue_tree(seed)
    pairs = [(a, b) for a, b in pairwise(rows) if prompt(a) == prompt(b)]
    pairs = pairs or [(rows[0], rows[0])]
    found = []
    for actor, marked in zip(actors(model), (False, True), strict=True):
        trainer = DPOTrainer.__new__(DPOTrainer)
        trainer.strategy = type("Strategy", (), {"ring_attn_group": None})
        trainer.tokenizer = type("Tokenizer", (), {"pad_token_id": 0})
        preferred = padded([a for a, _ in pairs], marked)
        rejected = padded([b for _, b in pairs], marked)
        lengths = [a.prompt_length for a, _ in pairs]
        chosen, other, _, nll = trainer.concatenated_forward(actor, *preferred, *rejected, lengths)
        found.append((loss(chosen, other, chosen * 0.9, other * 1.1)[0], nll))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def prompt(row):
    return row.ids[: row.prompt_length]


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 9),
)
def test_ranks_share_the_rows_and_trees_stay_together(trees, size, ranks, passes, epoch):
    names = [f"tree {number}" for number in trees]
    batch = size * ranks * passes
    samplers = [TreeSampler(names, batch, size, ranks, rank, seed=1) for rank in range(ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    order = samplers[0].order(epoch)
    assert sorted(order) == list(range(len(names)))
    runs = [name for name, _ in groupby(names[row] for row in order)]
    assert len(runs) == len(set(names))  # each tree is one run of neighbours
    dealt = [list(sampler) for sampler in samplers]
    assert [len(rows) for rows in dealt] == [len(sampler) for sampler in samplers]
    batches = [rows[at : at + size] for at in range(0, len(dealt[0]), size) for rows in dealt]
    taken = [row for rows in batches for row in rows]
    assert taken == order[: len(names) // batch * batch]
    steps = list(samplers[0].batches(0, epochs=2))
    assert all(len(rows) == batch for rows in steps)
    assert len(steps) == 2 * (len(names) // batch)
    for done in range(len(steps) + 1):
        assert list(samplers[0].batches(done * batch, epochs=2)) == steps[done:]
    for sampler, rows in zip(samplers, dealt, strict=True):
        sampler.set_epoch(epoch, consumed_samples=batch if rows else 0)
        assert list(sampler) == rows[size * passes :]


def test_who_cannot_take_a_mask_is_told_why():
    assert why_not(LlamaConfig()) is None
    assert why_not(MistralConfig(sliding_window=None)) is None
    assert "do not attend to all" in why_not(MistralConfig(sliding_window=64))
    assert why_not(MambaConfig()) is not None


def test_a_mask_tells_prompt_and_reply_apart():
    assert Encoded(array("i", [5, 6, 7]), 2).mask().tolist() == [PROMPT, PROMPT, REPLY]


@torch.no_grad()
@pytest.mark.parametrize("seed", range(10))
def test_entropy_is_that_of_one_row_after_the_other(model, seed):
    rows = dialogue_tree(seed)
    plain, packed = PlainActor(model), TreeActor(model)
    plain.packing_samples = False
    ids, mask = padded(rows, marked=True)
    for actor in (plain, packed):
        actor(ids, attention_mask=mask, return_logprobs=True)
    assert packed.entropy == pytest.approx(plain.entropy, rel=1e-4)


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return str(folder)


@torch.no_grad()
@pytest.mark.parametrize("seed", range(10))
def test_rewards_of_a_tree_are_those_of_its_rows(checkpoint, seed):
    """Through OpenRLHF's own reward trainer, which pads on the left."""
    torch.manual_seed(seed)
    options = {"attn_implementation": "sdpa", "param_dtype": "fp32", "init_value_head": True}
    plain = get_llm_for_sequence_regression(checkpoint, "reward", **options).eval()
    packed = load_reward_model(checkpoint, packs_trees=True, **options).eval()
    packed.load_state_dict(plain.state_dict())
    rows = dialogue_tree(seed)
    half = len(rows) // 2
    ids, mask = padded(rows, marked=False)
    trainer = RewardModelTrainer.__new__(RewardModelTrainer)
    trainer.strategy = type("Strategy", (), {"ring_attn_group": None})
    trainer.tokenizer = type("Tokenizer", (), {"pad_token_id": 0})
    batch = (ids[:half], mask[:half], ids[half:], mask[half:])
    found = [trainer.concatenated_forward(reward, *batch)[:2] for reward in (plain, packed)]
    torch.testing.assert_close(torch.cat(found[1]), torch.cat(found[0]), atol=1e-4, rtol=0)
    beginnings = {tuple(row.ids[:n]) for row in rows for n in range(1, len(row.ids) + 1)}
    assert packed.computed == len(beginnings) <= int(mask.sum())


def test_where_there_is_a_gpu_all_lengths_are_compiled_for(monkeypatch):
    monkeypatch.setattr(accelerator, "has_gpu", lambda: True)
    with torch._dynamo.config.patch(recompile_limit=8):
        accelerator.prepare()
        assert torch._dynamo.config.recompile_limit == 64


def scored(actor, score, rows):
    """Log-probs of all replies' tokens, and the gradients of their weighted sum, float32, flat."""
    actor.zero_grad()
    found = score(actor, rows)
    weighted_sum(found).backward()
    gradients = [part.grad.float().flatten() for part in actor.parameters()]
    return torch.cat(found).detach(), torch.cat(gradients)


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention runs on a GPU")
@pytest.mark.parametrize(
    ("heads", "shared", "size"), [(4, 2, 16), (9, 3, 64), (16, 16, 64), (12, 2, 128)]
)
def test_flex_attention_on_a_gpu(heads, shared, size):
    """float32: equal to 1e-4. bfloat16: as far from float32 as one row after the other is."""
    torch.manual_seed(0)
    sizes = {"hidden_size": heads * size, "intermediate_size": 256, "num_hidden_layers": 3}
    kinds = {"num_attention_heads": heads, "num_key_value_heads": shared}
    weights = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, **kinds)).state_dict()

    def loaded(actor, attention, dtype):
        own = LlamaConfig(vocab_size=VOCABULARY, **sizes, **kinds, attn_implementation=attention)
        model = LlamaForCausalLM(own)  # keeps this very object, and reads it in each pass
        model.load_state_dict(weights)
        made = actor(model.to("cuda", dtype))
        made.packing_samples = False
        return made

    for seed in range(6):
        rows = dialogue_tree(seed, longer=1 + 5 * seed)
        plain, low_plain = (loaded(Actor, "sdpa", t) for t in (torch.float32, torch.bfloat16))
        tree, low_tree = (
            loaded(TreeActor, "flex_attention", t) for t in (torch.float32, torch.bfloat16)
        )
        expected = scored(plain, one_by_one, rows)
        found = scored(tree, as_tree, rows)
        torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=0)
        assert relative(found[1], expected[1]) < 1e-4
        low, low_expected = scored(low_tree, as_tree, rows), scored(low_plain, one_by_one, rows)
        for number in (0, 1):
            noise = relative(low_expected[number], expected[number])
            assert relative(low[number], expected[number]) < 1.3 * noise
