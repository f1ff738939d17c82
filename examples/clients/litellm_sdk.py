"""The LiteLLM SDK: chat, stream, a forced call."""

import os

import litellm

CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
        },
    },
}
where = {
    "model": "openai/default",
    "api_base": os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8101/v1"),
    "api_key": os.environ.get("OPENAI_API_KEY", "unused"),
    "messages": [{"role": "user", "content": "What is the weather in Rome?"}],
}
print("chat:", litellm.completion(**where, max_tokens=40).choices[0].message.content)
stream = litellm.completion(**where, max_tokens=40, stream=True)
print("stream:", "".join(chunk.choices[0].delta.content or "" for chunk in stream))
forced = litellm.completion(**where, max_tokens=80, tools=[WEATHER], tool_choice="required")
print("called:", forced.choices[0].message.tool_calls[0].function)
