"""PipeSD's vLLM plugin: edge agents draft, a vLLM server verifies (`pipesd-vllm serve`)."""
