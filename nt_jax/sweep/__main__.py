"""`python -m nt_jax.sweep`."""

import sys

from nt_jax.cli import main

if __name__ == "__main__":
    sys.exit(main("sweep"))
