"""The parts that every node shares: errors, wire protocol, sampler, engine interface, HTTP program kit, llama.cpp."""
