"""`AsyncOpenAI`: the same wire, many calls at once."""

import asyncio
from typing import Any

from openai import AsyncOpenAI

from tests.conformance.scenarios.registry import Server, scenario

ASKED: Any = {
    "model": "starter",
    "input": "\ndef",
    "max_output_tokens": 5,
    "extra_body": {"ignore_eos": True},
}


@scenario
def the_asynchronous_client_makes_streams_and_lists(server: Server) -> None:
    asyncio.run(_calls(server))


async def _calls(server: Server) -> None:
    async with AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key=server.key, timeout=60, _strict_response_validation=True
    ) as client:
        done = await asyncio.gather(*(client.responses.create(**ASKED) for _ in range(8)))
        assert len({one.id for one in done}) == 8
        assert all(one.usage is not None and one.usage.output_tokens == 5 for one in done)
        text = ""
        async for event in await client.responses.create(**ASKED, stream=True):
            if event.type == "response.output_text.delta":
                text += event.delta
        assert text
        names = [model.id async for model in client.models.list()]
        assert "starter" in names
        files = await asyncio.gather(
            *(client.files.create(file=(f"{n}.txt", b"x"), purpose="assistants") for n in range(3))
        )
        listed = [one.id async for one in client.files.list(purpose="assistants", limit=1)]
        assert set(listed) == {one.id for one in files}
