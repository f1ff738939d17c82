"""anthropic-python: Messages, streaming and not, with a tool."""

import os

from anthropic import Anthropic

client = Anthropic(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8101/v1").removesuffix("/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
)
ask = {"model": "default", "max_tokens": 80, "messages": [{"role": "user", "content": "What is the weather in Rome?"}]}
message = client.messages.create(**ask)
print("message:", message.content[0].text, message.stop_reason, message.usage.output_tokens)
with client.messages.stream(**ask) as stream:
    print("stream:", "".join(stream.text_stream))
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
weather = {
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
    },
}
called = client.messages.create(**ask, tools=[weather], tool_choice={"type": "any"})
print("called:", [(block.name, block.input) for block in called.content if block.type == "tool_use"])
