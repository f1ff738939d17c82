"""pydantic-ai: an agent whose answer is a model of pydantic (by a tool, which is its default), and one with a tool."""

import os

from pydantic import BaseModel, Field
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings


class City(BaseModel):
    name: str = Field(max_length=20)
    people: int = Field(ge=0, le=40_000_000)


provider = OpenAIProvider(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8101/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
)
model = OpenAIChatModel("default", provider=provider, settings=ModelSettings(max_tokens=120))
print("text:", Agent(model).run_sync("Say hello.").output)
print("output_type:", Agent(model, output_type=City).run_sync("Rome has 2.8 million people.").output)
