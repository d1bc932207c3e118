"""`python -m nt_jax.reproduce`: see nt_jax/cli.py."""

import sys

from nt_jax.cli import main

if __name__ == "__main__":
    sys.exit(main("reproduce"))
