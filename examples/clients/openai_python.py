"""openai-python: chat, stream, tools, structured output, the Responses API; then the same client with asyncio."""

import asyncio
import os

from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from pydantic import BaseModel, Field

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8101/v1")
client = OpenAI(base_url=BASE_URL, api_key=os.environ.get("OPENAI_API_KEY", "unused"))
model = client.models.list().data[0].id
messages = [{"role": "user", "content": "Write a function that adds two numbers."}]


class Add(BaseModel):
    """Add two numbers."""

    left: int = Field(ge=0, le=99)
    right: int = Field(ge=0, le=99)


answer = client.chat.completions.create(model=model, messages=messages, max_tokens=40)
print("chat:", answer.choices[0].message.content)

stream = client.chat.completions.create(model=model, messages=messages, max_tokens=40, stream=True)
print("stream:", "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))

parsed = client.chat.completions.parse(model=model, messages=messages, max_tokens=80, response_format=Add)
print("parsed:", parsed.choices[0].message.parsed)

called = client.chat.completions.parse(
    model=model, messages=messages, max_tokens=120, tools=[pydantic_function_tool(Add)], tool_choice="required"
)
print("called:", called.choices[0].message.tool_calls[0].function.parsed_arguments)

response = client.responses.create(model=model, input="Write a function that adds two numbers.", max_output_tokens=40)
print("response:", response.output_text)

with client.responses.stream(model=model, input="Say hello.", max_output_tokens=20) as events:
    print("streamed response:", "".join(event.delta for event in events if event.type == "response.output_text.delta"))


async def asynchronously() -> None:
    async with AsyncOpenAI(base_url=BASE_URL, api_key=client.api_key) as remote:
        told = await asyncio.gather(
            *(remote.chat.completions.create(model=model, messages=messages, max_tokens=20) for _ in range(2))
        )
        print("async:", *(one.choices[0].message.content for one in told), sep="\n")


asyncio.run(asynchronously())
