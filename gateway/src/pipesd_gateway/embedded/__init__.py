"""The embedded engine: a target model run by llama.cpp in this process (architecture §2, llamacpp.md)."""
