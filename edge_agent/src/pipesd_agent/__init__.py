"""PipeSD, the edge side: drafts on the device, verified by the cloud, behind an OpenAI-compatible API."""
