"""One run by several processes as tasks of Ray.

    python launch/ray_run.py 2 8 --config my-model.yaml

NOT RUN: Ray is no dependency, and no cluster could be reached where this was written
(docs/scaling.md). The first number is that of the processes, the second that of the GPUs of each;
what stands behind them are words of `python -m nt_jax.train`, mesh.data and mesh.model among them.
"""

import subprocess
import sys

import ray

PORT = 4321


@ray.remote
class Member:
    """One process of the run, on a node of its own choice."""

    def address(self) -> str:
        """Where the others reach it."""
        return ray.util.get_node_ip_address()

    def run(self, words: list[str]) -> int:
        """Its exit code."""
        return subprocess.run([sys.executable, "-m", "nt_jax.train", *words]).returncode


def main() -> int:
    """The largest exit code."""
    count, gpus, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ray.init()
    members = [Member.options(num_gpus=gpus).remote() for _ in range(count)]
    coordinator = f"{ray.get(members[0].address.remote())}:{PORT}"
    place = ["--coordinator", coordinator, "--processes", str(count), "--process"]
    codes = [each.run.remote([*words, *place, str(n)]) for n, each in enumerate(members)]
    return max(ray.get(codes))


if __name__ == "__main__":
    sys.exit(main())
