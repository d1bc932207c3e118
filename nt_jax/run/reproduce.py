"""A finished run made again from its run.json, and compared: the command `reproduce`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nt_jax.checkpoints.checkpoint import fingerprint
from nt_jax.console import say
from nt_jax.errors import RunError
from nt_jax.limits import JSON_BYTES, parse_json, read_within
from nt_jax.mesh import devices
from nt_jax.models.neurons import Factors
from nt_jax.run import pipeline
from nt_jax.run.export import config_of, located, run_factors
from nt_jax.run.hashes import differing_refusals, factors_sha256, weights_sha256
from nt_jax.run.preflight import Inputs, read_inputs
from nt_jax.runinfo import SOURCE, this_machine

CLOSE = 1e-6  # factors of two runs on one machine and the same versions
# Packages whose other version may move more than the last bits of a result.
COMPUTING = ("nt_jax", SOURCE, "jax", "jaxlib", "transformers", "tokenizers", "gguf", "datasets")


class Difference(NamedTuple):
    """Something that is not as it was; severity 2: other results are likely, 1: other last bits."""

    severity: int
    what: str
    then: str
    now: str


def reproduce(path: Path, run_dir: str | None = None) -> None:
    """Run the config of a run.json again in another folder; say what is the same and what is not.

    Raises a RunError where the weights, the data or the test sets are not those of the run, or
    where the new results are others: factors apart by more than CLOSE, or other refusal counts.
    """
    facts = read_run(path)
    folder = run_dir or beside(path)
    if Path(folder).resolve() == path.parent.resolve():
        raise RunError(f"{folder} is the run itself: name another folder with --run-dir DIR.")
    if facts.get("begun"):
        raise RunError(
            f"{path} went on from the factors of a neighbour (sweep --warm-start), which its "
            "settings do not hold. Repeat the sweep."
        )
    config = located(config_of(path.parent, facts["config"]), facts.get("made_in"))
    config = config.model_copy(update={"run_dir": folder})
    inputs = read_inputs(config)
    check_inputs(path, facts["sha256"], inputs)
    for found in sorted(differences(facts), reverse=True):
        weight = "may change results" if found.severity > 1 else "may change last bits"
        say("differs", f"{found.what}: {found.then}, here {found.now} ({weight})")
    then = kept_factors(path, facts["sha256"]["factors"])
    pipeline.run(config, inputs=inputs)
    now = run_factors(Path(folder))[1]
    again = read_run(Path(folder) / "run.json")
    same = say_factors(then, now, facts["sha256"]["factors"])
    lines = differing_refusals(facts["refusals"], again["refusals"])
    for line in lines:
        say("refusals", line)
    if not lines:
        say("refusals", f"all {len(again['refusals'])} counts are the same")
    if lines or not same:
        raise RunError(f"{path} was not reproduced; the lines above say where. New run: {folder}")
    say("reproduced", f"{path}   new run: {folder}")


def beside(path: Path) -> str:
    """The folder of the new run unless one is named: that of run.json with -again after it."""
    own = path.parent if path.parent.name not in ("", "..") else path.parent.resolve()
    return f"{own}-again"


def read_run(path: Path) -> dict[str, Any]:
    """The facts of a finished run's run.json. Raises a RunError where it is none."""
    if not path.exists():
        raise RunError(f"{path} is not there. Name the run.json of a finished run.")
    try:
        facts = parse_json(read_within(path, JSON_BYTES))
        if not isinstance(facts, dict):
            raise ValueError(f"it holds a {type(facts).__name__} in place of facts")
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is no run.json of a run ({error}).") from None
    if missing := [name for name, is_good in WANTED.items() if not is_good(facts.get(name))]:
        raise RunError(
            f"{path} is not that of a finished run (it lacks {', '.join(missing)}): carry "
            "the run on to its report first, with this version of nt_jax."
        )
    return facts


def _are_hashes(known: Any) -> bool:
    """Those of `run/hashes.py`: of the weights by their files, and of the rest."""
    names = ("data", "factors", "fingerprint", "tests")
    return (
        isinstance(known, dict)
        and all(isinstance(known.get(name), str) for name in names)
        and isinstance(known.get("weights"), dict)
        and bool(known["weights"])
    )


def _are_counts(rows: Any) -> bool:
    """Those of `refusal_counts`."""
    return isinstance(rows, list) and all(
        isinstance(row, dict)
        and all(isinstance(row.get(name), str) for name in ("dataset", "model", "judge"))
        and all(
            isinstance(row.get(name), int | float) and 0 <= row[name] < 1 << 53
            for name in ("refused", "n")
        )
        for row in rows
    )


# What is read of a run.json -> whether a value is it: the file may have come from anywhere.
WANTED: dict[str, Callable[[Any], bool]] = {
    "config": lambda value: isinstance(value, dict),
    "refusals": _are_counts,
    "sha256": _are_hashes,
    "versions": lambda value: isinstance(value, dict),
}


def check_inputs(path: Path, known: Mapping[str, Any], inputs: Inputs) -> None:
    """Raises a RunError that names what is not what the run was made from."""
    checkpoint = inputs.model.checkpoint
    wrong = [name for name in ("data", "tests") if inputs.hashes[name] != known.get(name)]
    if fingerprint(checkpoint) != known.get("fingerprint"):
        wrong.insert(0, "weights")
    elif weights_sha256(checkpoint) != known["weights"]:
        wrong.insert(0, "weights (some bytes of them)")
    if wrong:
        raise RunError(
            f"{path} cannot be reproduced here: {', '.join(wrong)} are not those of the run. Put "
            "the old files back; nothing was written."
        )


def differences(facts: Mapping[str, Any]) -> list[Difference]:
    """What of machine and packages is not as run.json has it."""
    here = this_machine()
    now = {
        **here["versions"],
        "devices": devices(),
        "python": here["python"],
        "platform": here["platform"],
        "hardware": here["hardware"],
    }
    then = {**facts.get("versions", {}), **{name: facts.get(name) for name in list(now)[-4:]}}
    return [
        Difference(
            2 if name in (*COMPUTING, "devices") else 1,
            name,
            str(then.get(name)),
            str(now.get(name)),
        )
        for name in dict.fromkeys([*then, *now])
        if then.get(name) != now.get(name)
    ]


def kept_factors(path: Path, sha256: str) -> Factors | None:
    """The run's own factors beside its run.json; None where they are not there."""
    if not (path.parent / "train").is_dir():
        return None
    factors = run_factors(path.parent)[1]
    if factors_sha256(factors) != sha256:
        raise RunError(f"the factors beside {path} are not those that it speaks of: carry it on.")
    return factors


def say_factors(then: Factors | None, now: Factors, sha256: str) -> bool:
    """Say how far the factors are apart; whether they count as the same."""
    if factors_sha256(now) == sha256:
        say("factors", f"all {len(now.theta_P)} are the same, bit for bit")
        return True
    if then is None:
        say("factors", "not the same bits; how far apart is not known without the run's own folder")
        return False
    places = [
        set(zip(f.neurons.layer_P.tolist(), f.neurons.index_P.tolist(), strict=True))
        for f in (then, now)
    ]
    if others := len(places[1] - places[0]):
        say("factors", f"{others} of {len(places[1])} neurons are others")
        return False
    size = int(max(f.neurons.layer_P.max() for f in (then, now))) + 1
    width = int(max(f.neurons.index_P.max() for f in (then, now))) + 1
    apart = float(np.abs(then.scale_LF(size, width) - now.scale_LF(size, width)).max())
    say("factors", f"{len(now.theta_P)} are apart by {apart:.1e} at most (allowed: {CLOSE:.0e})")
    return apart <= CLOSE
