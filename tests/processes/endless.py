"""A command that holds its run directory and adds numbers up with the others until it is ended.

Its run takes the place of nt_jax's own; HOW says what goes wrong in which process.
"""

import sys
import types
from pathlib import Path


def run(config, until=None, **more) -> None:
    """Add up for ever; `until` is how the test has asked to end."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from nt_jax import processes
    from nt_jax.atomic import write_atomic
    from nt_jax.errors import RunError
    from nt_jax.mesh import host, make_mesh
    from nt_jax.rundir import RunDirectory

    how, index = config.name, processes.index()
    mesh = make_mesh(data=processes.count())
    with RunDirectory(config.folder) as held, held.stage("train", "key", resumable=True) as folder:
        ones = jnp.ones(processes.count(), device=NamedSharding(mesh, PartitionSpec("data")))
        add = jax.jit(lambda x: (x.sum(), x + 1))
        step = 0
        while True:
            total, ones = add(ones)
            step += 1
            assert float(total) == step * processes.count()
            assert (host(ones) == step + 1).all()
            write_atomic(folder / "step", str(step).encode())  # a signal may come within a write
            if how == "ends" and step == 5:
                return
            if how == f"fails-{index}" and step == 5:
                raise RunError("no space left on the disk")
            if how == f"breaks-{index}" and step == 5:
                raise ZeroDivisionError("two by nothing")


if __name__ == "__main__":
    from nt_jax import cli

    module = types.ModuleType("nt_jax.run.pipeline")
    module.__dict__["run"] = run
    sys.modules["nt_jax.run.pipeline"] = module
    folder, how, *words = sys.argv[1:]
    Path(folder).mkdir(exist_ok=True)
    settings = ["--config", "smollm2-135m", f"run_dir={folder}", f"name={how}"]
    sys.exit(cli.main("train", [*settings, *words]))
