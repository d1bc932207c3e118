"""How tests compile: quickly, for tiny programs that run once, and alike in every process."""

from importlib.metadata import version

TRIED = "0.10."  # jaxlib; a flag that XLA does not know ends the process
OLDER_GENERATOR = "--xla_cpu_use_fusion_emitters=false"  # of code: tiny programs compile sooner


def quick_flags(flags: str = "") -> str:
    """XLA_FLAGS with what makes compiling quick; to be set before jax has devices."""
    known = version("jaxlib").startswith(TRIED)
    return f"{flags} {OLDER_GENERATOR}".strip() if known and OLDER_GENERATOR not in flags else flags
