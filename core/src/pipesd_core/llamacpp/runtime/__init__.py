"""The llama.cpp engine at run time: admission, decode thread, slots, sampler, text."""
