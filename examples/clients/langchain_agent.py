"""LangChain: a chat model, tools bound to it, structured output, and an agent."""

import os

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Person(BaseModel):
    """Somebody in the text."""

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


chat = ChatOpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8101/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "unused"),
    model="default",
    max_completion_tokens=80,
)
print("chat:", chat.invoke("Write a function that adds two numbers.").content)
print("stream:", "".join(chunk.text for chunk in chat.stream("Say hello.")))
print("bound, required:", chat.bind_tools([weather], tool_choice="required").invoke("Weather in Rome?").tool_calls)
print("structured:", chat.with_structured_output(Person).invoke("Ada is 36 years old."))
agent = create_agent(chat, tools=[weather])
print("agent:", agent.invoke({"messages": [("user", "Weather in Rome?")]})["messages"][-1].text)
