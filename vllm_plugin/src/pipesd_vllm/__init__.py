"""PipeSD's vLLM plugin. Empty for now: the plugin is the next milestone."""
