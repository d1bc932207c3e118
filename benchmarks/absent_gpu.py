"""Compile for H100s that are not there: XLA's own GPU compiler, no card and no driver.

XLA compiles for a described card. Its CUDA plugin and NVIDIA's assembler are no requirement of the
project: `installed` puts them into a folder of their own, with the version of the jaxlib in use.
Nothing can be run, and autotuning is off as it would have to: a card may get faster kernels.
"""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

TOOLS = ("jax-cuda12-pjrt", "jax-cuda12-plugin")  # of the version of jaxlib
ASSEMBLER = "nvidia-cuda-nvcc-cu12"
CUDNN = 91000  # as in what follows
# What a card's driver tells XLA of it (an H100 SXM5 of 80 GB).
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
}
platform_name: "CUDA"
runtime_version { major: 12 minor: 9 patch: 0 }
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def installed(folder: Path) -> Path:
    """`folder` with the tools in it; downloads 570 MB the first time."""
    if not (folder / "nvidia" / "cuda_nvcc").exists():
        version = importlib.metadata.version("jaxlib")
        wanted = [*(f"{tool}=={version}" for tool in TOOLS), ASSEMBLER]
        quiet = ["--disable-pip-version-check", "install", "-q", "--no-deps"]
        command = [sys.executable, "-m", "pip", *quiet, "--target", str(folder), *wanted]
        subprocess.run(command, check=True)
    return folder


def prepare(folder: Path) -> None:
    """Make the tools known to jax, which must not have been imported before."""
    root = installed(folder).resolve()
    cuda = root / "nvidia" / "cuda_nvcc"
    sys.path.append(str(root))
    flags = f"--xla_gpu_cuda_data_dir={cuda} --xla_gpu_autotune_level=0"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["PATH"] = f"{cuda / 'bin'}:{os.environ['PATH']}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"


def cards(count: int) -> list:
    """`count` H100s of one host, good for compiling only."""
    import jax
    from jax._src.cudnn import fused_attention_stablehlo
    from jax.experimental import topologies

    jax.devices()  # finds the plugin
    fused_attention_stablehlo.check_cudnn_version = lambda: CUDNN  # of a library that is not here
    found = topologies.get_topology_desc(
        platform="cuda", target_config=H100, topology=f"1x1x{count}"
    )
    return list(found.devices)
