"""Faster forms of a network that give equal scores. Nothing in `fullconv.models` imports them."""
