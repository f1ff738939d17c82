"""Ask a running edge agent through the OpenAI SDK (`make demo KEEP=1` or `pipesd-agent start` leaves one running)."""

import sys

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8101/v1", api_key="unused")
model = client.models.list().data[0].id
stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": " ".join(sys.argv[1:]) or "Write a function that adds two numbers."}],
    max_tokens=120,
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="", flush=True)
    if chunk.usage and (drafts := (chunk.usage.model_extra or {}).get("pipesd")):
        print(f"\n{drafts['accepted']} of {chunk.usage.completion_tokens} tokens were drafted here")
