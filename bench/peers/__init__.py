"""The contestants: one small script each, which runs in a process and an environment of its own."""
