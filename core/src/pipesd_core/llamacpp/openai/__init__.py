"""OpenAI requests for the llama.cpp engine: their fields, prompts, grammars and answers."""
