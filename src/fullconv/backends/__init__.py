"""Engines: the same net, run by somebody else's library. Each file makes its form of a net, and runs it."""
