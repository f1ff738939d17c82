"""OpenAI's Responses API and Anthropic's Messages API, translated to chat completions and back. Pure."""
