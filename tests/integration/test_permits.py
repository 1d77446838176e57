"""Limits of a model hold for all actors of a run together, and outlive any of them."""

from __future__ import annotations

import asyncio
import time

import pytest
import ray
from chat_server import ChatServer, Reply

from aloe.config import OpenAIModel

pytestmark = pytest.mark.usefixtures("local_ray")


@ray.remote(num_cpus=0)
class Speaker:
    """An actor with an engine of its own."""

    def __init__(self, model: OpenAIModel) -> None:
        from aloe.engines.openai import OpenAIEngine

        self._engine = OpenAIEngine("m", model)

    async def talk(self, calls: int, first: int = 0) -> int:
        from aloe.engines import Request

        asked = [Request([{"role": "user", "content": f"{first + n}"}]) for n in range(calls)]
        return len(await asyncio.gather(*map(self._engine.complete, asked)))


def model_at(server: ChatServer, **settings) -> OpenAIModel:
    return OpenAIModel(backend="openai", model="echo", base_url=server.url, **settings)


def test_actors_share_the_places_of_a_model():
    with ChatServer(lambda post: Reply(seconds=0.1)).running() as server:
        model = model_at(server, max_concurrency=3)
        speakers = [Speaker.remote(model) for _ in range(3)]
        assert ray.get([speaker.talk.remote(10) for speaker in speakers]) == [10, 10, 10]
    assert len(server.posts) == 30
    assert max(post.inside for post in server.posts) == 3


def test_actors_share_the_requests_of_a_minute():
    with ChatServer(lambda post: Reply()).running() as server:
        speakers = [Speaker.remote(model_at(server, requests_per_minute=600)) for _ in range(2)]
        ray.get([speaker.talk.remote(10) for speaker in speakers])
    # 20 requests are 19 gaps of a tenth of a second.
    assert server.posts[-1].at - server.posts[0].at > 1.5


def test_a_wait_that_the_server_asks_for_holds_for_all():
    def script(post):
        return Reply(429, {"retry-after": "1.5"}) if post.number == 1 else Reply()

    with ChatServer(script).running() as server:
        model = model_at(server)
        one, other = Speaker.remote(model), Speaker.remote(model)
        ray.get([one.talk.remote(0), other.talk.remote(0)])
        asked = one.talk.remote(1)
        while not server.posts:
            time.sleep(0.01)
        time.sleep(0.2)
        ray.get([asked, other.talk.remote(1)])
    assert server.posts[1].at - server.posts[0].at > 1.4


def test_the_end_of_an_actor_takes_no_place_with_it():
    with ChatServer(lambda post: Reply(seconds=0.2)).running() as server:
        model = model_at(server, max_concurrency=2)
        first, second = Speaker.remote(model), Speaker.remote(model)
        ray.get(first.talk.remote(1))  # it has opened the desk
        lost, kept = first.talk.remote(20), second.talk.remote(20)
        while len(server.posts) < 8:
            time.sleep(0.01)
        ray.kill(first)
        assert ray.get(kept, timeout=60) == 20
        with pytest.raises(ray.exceptions.RayActorError):
            ray.get(lost)
