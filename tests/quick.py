"""How tests compile: quickly, for tiny programs that run once, and alike in every process."""

from importlib.metadata import version

KNOWN_TO = ("0.10", "0.11", "0.12")  # jaxlibs; a flag that XLA does not know ends the process
OLDER_GENERATOR = "--xla_cpu_use_fusion_emitters=false"  # of code: half the time of compiling


def quick_flags(flags: str = "") -> str:
    """XLA_FLAGS with what makes compiling quick; to be set before jax has devices."""
    known = version("jaxlib").rsplit(".", 1)[0] in KNOWN_TO
    return f"{flags} {OLDER_GENERATOR}".strip() if known and OLDER_GENERATOR not in flags else flags
