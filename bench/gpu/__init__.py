"""Checks of the vLLM plugin that need a GPU, for a machine that has one: `python -m bench.gpu`, docs/gpu_box.md."""
