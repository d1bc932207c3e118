"""`python -m nt_jax.report`."""

import sys

from nt_jax.cli import main

if __name__ == "__main__":
    sys.exit(main("report"))
