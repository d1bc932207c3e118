"""The devices that doctor can plan for without having them, as their makers publish them.

Each figure stands in the maker's data sheet that `source` names. Products are of bfloat16 without
sparsity; a link is what one device sends another in one direction.
"""

from typing import NamedTuple

from nt_jax.errors import ConfigError
from nt_jax.run.work import Machine

# Of a GPU's memory jax takes this share, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise:
# docs.jax.dev/en/latest/gpu_memory_allocation.html
GPU_SHARE = 0.75
MOST = 4096  # devices of one plan


class Kind(NamedTuple):
    """One kind of device."""

    name: str
    memory: float  # bytes
    flops: float  # a second
    bandwidth: float  # bytes a second, of its memory
    link: float  # bytes a second to another device
    source: str

    @property
    def room(self) -> int:
        """Bytes that jax takes of one: of these a run has to make do."""
        return int(GPU_SHARE * self.memory)

    @property
    def machine(self) -> Machine:
        """What one does in a second."""
        return Machine(self.flops, self.bandwidth, self.link, "gpu")


KINDS = {
    "a100-40gb": Kind(
        "A100 SXM 40 GB",
        40e9,
        312e12,
        1.555e12,
        300e9,
        "NVIDIA A100 data sheet: 40 GB, 312 TFLOPS, 1,555 GB/s, NVLink 600 GB/s both ways",
    ),
    "a100-80gb": Kind(
        "A100 SXM 80 GB",
        80e9,
        312e12,
        2.039e12,
        300e9,
        "NVIDIA A100 data sheet: 80 GB, 312 TFLOPS, 2,039 GB/s, NVLink 600 GB/s both ways",
    ),
    "h100": Kind(
        "H100 SXM 80 GB",
        80e9,
        989.4e12,
        3.35e12,
        450e9,
        "NVIDIA H100 data sheet: 80 GB, 1,979 TFLOPS with sparsity, 3.35 TB/s, NVLink 900 GB/s",
    ),
    "h200": Kind(
        "H200 SXM 141 GB",
        141e9,
        989.4e12,
        4.8e12,
        450e9,
        "NVIDIA H200 data sheet: 141 GB, 1,979 TFLOPS with sparsity, 4.8 TB/s, NVLink 900 GB/s",
    ),
    "l40s": Kind(
        "L40S 48 GB",
        48e9,
        362.05e12,
        0.864e12,
        32e9,
        "NVIDIA L40S data sheet: 48 GB, 362.05 TFLOPS, 864 GB/s, PCIe 4.0 x16 64 GB/s both ways",
    ),
}


def devices_of(words: str) -> tuple[int, Kind]:
    """(how many, their kind) of a text like 8xH100; a ConfigError for another."""
    count, cross, kind = words.lower().partition("x")
    if not (cross and count.isdecimal() and len(count) <= len(str(MOST))):
        count, kind = "1", words.lower()  # or no kind at all, which is said below
    if kind not in KINDS or not 1 <= int(count) <= MOST:
        raise ConfigError(
            f"--devices {words} (command line): a number and a kind like 8xH100 are wanted; "
            f"kinds: {', '.join(KINDS)}"
        )
    return int(count), KINDS[kind]
