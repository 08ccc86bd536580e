"""The whole stack on one machine: start it, try it, give it keys. Knows processes, not tensors."""
