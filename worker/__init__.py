"""Generation: many sequences in one batch on one device. Knows no HTTP."""
