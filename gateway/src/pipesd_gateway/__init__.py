"""PipeSD, the cloud side: the sessions of edge agents over any engine, and the OpenAI API beside them."""
