"""The vLLM plugin beside stock vLLM on the CPU."""
