"""Cost of a network and memory of the process."""
