import asyncio
import json
import math

import pytest

from aloe.config import ActorPool, OpenAIModel, ScriptedModel, VllmModel
from aloe.engines import Request, Speakers, check_models, gpus_for
from aloe.engines.openai import choice_logprobs
from aloe.engines.pool import pooled_models
from aloe.engines.scripted import ScriptedEngine
from aloe.errors import UserError, WorldFault
from aloe.roles.speak import INDUCTION_SCHEMA

SCRIPT = ScriptedModel(backend="scripted")
HELLO = [{"role": "user", "content": "hello"}]


def test_names_with_equal_settings_share_one_engine():
    async def look():
        speakers = Speakers(
            {"a": SCRIPT, "b": SCRIPT, "c": ScriptedModel(backend="scripted", latency_s=1)}
        )
        a, also_a, b, c = await asyncio.gather(*map(speakers.get, ("a", "a", "b", "c")))
        speakers.close()
        return a is also_a, a is b, a is c

    assert asyncio.run(look()) == (True, True, False)


def test_a_failed_start_reaches_every_caller_and_can_be_tried_again():
    async def look():
        broken = OpenAIModel(backend="openai", model="m", api_key_env="ALOE_NO_SUCH_KEY")
        speakers = Speakers({"m": broken})
        first = await asyncio.gather(*(speakers.get("m") for _ in range(3)), return_exceptions=True)
        with pytest.raises(UserError):
            await speakers.get("m")
        speakers.close()
        return first

    errors = asyncio.run(look())
    assert [type(error) for error in errors] == [UserError] * 3


def test_gpus_of_an_actor():
    vllm = VllmModel(backend="vllm", path="x", tensor_parallel_size=2)
    assert gpus_for(ActorPool(), [SCRIPT]) == 0
    assert gpus_for(ActorPool(), [SCRIPT, vllm]) == 2
    assert gpus_for(ActorPool(num_gpus=0.5), [vllm]) == 0.5


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (VllmModel(backend="vllm", path="embedded://gpt-9"), "unknown embedded model"),
        (VllmModel(backend="vllm", path="./no/such/model"), r"config\.json is missing"),
        (
            OpenAIModel(backend="openai", model="m", api_key_env="ALOE_NO_SUCH_KEY"),
            "ALOE_NO_SUCH_KEY",
        ),
    ],
)
def test_unusable_models_are_found_before_anything_starts(model, named):
    with pytest.raises(UserError, match=named):
        check_models([model])


def test_a_server_that_is_down_is_the_worlds_fault():
    down = OpenAIModel(backend="openai", model="m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(WorldFault, match=r"127\.0\.0\.1:9/v1: cannot be reached"):
        check_models([down])
    check_models([down], servers=False)


def test_scripted_answers_depend_on_the_request_alone():
    async def say(seed):
        return await ScriptedEngine("s", SCRIPT).complete(Request(HELLO, seed=seed))

    assert asyncio.run(say(1)) == asyncio.run(say(1))
    assert asyncio.run(say(1)).text != asyncio.run(say(2)).text


def test_scripted_answers_fit_their_constraints():
    engine = ScriptedEngine("s", SCRIPT)
    chosen = asyncio.run(engine.complete(Request(HELLO, choices=("1", "2"))))
    assert chosen.text in ("1", "2")
    assert math.isclose(sum(map(math.exp, chosen.choice_logprobs.values())), 1)
    value = json.loads(
        asyncio.run(engine.complete(Request(HELLO, json_schema=INDUCTION_SCHEMA))).text
    )
    assert set(value) == {"profile", "personality"}
    assert all(len(value[key]) <= 4 for key in value)


def test_choice_probabilities_from_a_servers_likeliest_tokens():
    top = [("1", math.log(0.5)), (" 1", math.log(0.1)), ("2", math.log(0.2)), ("x", math.log(0.1))]
    found = choice_logprobs(top, ("1", "2"))
    assert math.exp(found["1"]) == pytest.approx(0.75)
    assert choice_logprobs([("yes", -0.1)], ("1", "2")) == {}
    only_one = choice_logprobs([("1", math.log(0.9)), ("x", math.log(0.05))], ("1", "2"))
    assert math.exp(only_one["2"]) == pytest.approx(0.05 / 0.95)


def test_reinforcement_learning_and_evaluation_ask_for_the_same_pool():
    user = VllmModel(backend="vllm", path="embedded://tiny")
    policy = VllmModel(backend="vllm", path="somewhere/else")
    actors = ActorPool()
    assert pooled_models({"user": user}, actors) == {}  # alone, it lives in the actor that uses it
    in_training = pooled_models({"user": user})
    in_evaluation = pooled_models({"user": user, "policy": policy}, actors)
    assert in_training["user"] == in_evaluation["user"]  # the pool is named after it
