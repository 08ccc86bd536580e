"""Contestants of bench/trainer.py: each a process that trains so many steps when it is told to."""
