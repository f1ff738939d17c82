"""instructor in its default mode, TOOLS: an answer that is a model of pydantic, by a forced call."""

import os

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


client = instructor.from_openai(
    OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8101/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "unused"),
    )
)
ask = {"model": "default", "max_tokens": 120, "messages": [{"role": "user", "content": "Ada is 36 years old."}]}
print("person:", client.create(response_model=Person, **ask))
