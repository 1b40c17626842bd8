"""Training: the loop, its loss and optimizer, and the run folder around it."""
