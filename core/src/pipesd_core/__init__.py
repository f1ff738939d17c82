"""What every node is made of: errors, wire protocol, sampler, engine interface, HTTP program kit, llama.cpp."""
