"""The OpenAI Agents SDK with its default model, which is the Responses API: a function as a tool, and typed output."""

import asyncio
import os

from agents import Agent, ModelSettings, Runner, function_tool, set_default_openai_client, set_tracing_disabled
from openai import AsyncOpenAI
from pydantic import BaseModel, Field


class City(BaseModel):
    name: str = Field(max_length=20)
    people: int = Field(ge=0, le=40_000_000)


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


async def main() -> None:
    set_tracing_disabled(True)
    base_url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8101/v1")
    set_default_openai_client(AsyncOpenAI(base_url=base_url, api_key=os.environ.get("OPENAI_API_KEY", "unused")))
    required = ModelSettings(tool_choice="required", parallel_tool_calls=False)
    helper = Agent(
        "helper",
        tools=[weather],
        model="default",
        model_settings=required,
        tool_use_behavior="stop_on_first_tool",
    )
    print("tool:", (await Runner.run(helper, "What is the weather in Rome?")).final_output)
    streamed = Runner.run_streamed(Agent("reader", model="default", output_type=City), "Rome has 2.8 million people.")
    async for _ in streamed.stream_events():
        pass
    print("typed, streamed:", streamed.final_output)


asyncio.run(main())
