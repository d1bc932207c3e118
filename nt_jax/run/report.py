"""The report of a finished run once more, as this version writes it: nothing is measured again."""

from pathlib import Path

from nt_jax.attribution.store import load_scores
from nt_jax.console import say
from nt_jax.errors import RunError
from nt_jax.run.evaluate import report_stage
from nt_jax.run.export import config_of
from nt_jax.run.hashes import record_report
from nt_jax.run.stages import write_run_report
from nt_jax.rundir import RunDirectory

# What a report reads; an evaluation has `eval` alone of them, one of an older version no keys.
READ = ("answers", "attribute", "select", "train", "eval")


def report_again(run_dir: Path) -> Path:
    """Write `report/` of a run, or of an evaluation, from its finished stages; report.html's path.

    Neither the model nor the data need be there. Raises a RunError where the folder holds no
    finished report, or one of other settings than run.json has now.
    """
    if not (run_dir / "run.json").is_file():
        raise RunError(f"{run_dir} is not a run directory (it has no run.json). Name one.")
    with RunDirectory(run_dir) as directory:
        facts = directory.facts()
        made = facts.get("stages", {}).get("report", {}).get("key")
        keys = facts.get("keys", {})
        current = [made, *(keys[name] for name in READ if name in keys)]
        finished = ["report", *(name for name in READ if name in keys)]
        whole = all(map(directory.finished, finished, map(str, current)))
        if not whole or "config" not in facts or keys.get("report", made) != made:
            raise RunError(
                f"{run_dir} holds no finished report of its present settings. Carry the run on "
                "first: repeat the command that made it; finished stages are kept."
            )
        config = config_of(run_dir, facts["config"])
        tuned = "train" in keys
        with directory.stage(
            "report", made, made_from=("eval", "export") if tuned else ("eval",)
        ) as to:
            if tuned:
                layers = len(load_scores(directory.read("attribute"))["safety"])
                said = write_run_report(directory, config, layers, to)
            else:
                said = report_stage(config, directory, to)
        if "sha256" in facts:
            record_report(directory, facts["sha256"])
    path = run_dir / "report" / "report.html"
    say("report", f"{said}   {path}   (and report.md)")
    return path
