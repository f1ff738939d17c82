"""LlamaIndex: a chat, a stream, and structured output by a call of a function."""

import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field


class Person(BaseModel):
    """Somebody in the text."""

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


model = OpenAILike(
    model="default",
    api_base=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8101/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
    is_chat_model=True,
    is_function_calling_model=True,
    max_tokens=80,
)
question = [ChatMessage(role="user", content="Ada is 36 years old.")]
print("chat:", model.chat(question).message.content)
print("stream:", "".join(part.delta or "" for part in model.stream_chat(question)))
print("structured:", model.as_structured_llm(Person).chat(question).raw)
