"""Generation: claims jobs, runs them in one continuously changing batch, and commits what they said."""

import os

# Read when torch's OpenMP is loaded, so it stands before every import of torch. Threads that spin while they
# wait slow a step down tenfold as soon as anybody else wants a core, and web and PostgreSQL do.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
