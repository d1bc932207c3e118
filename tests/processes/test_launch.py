"""The files of launch/: what they start is what the command line takes; mistakes are one line."""

import importlib.util
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from nt_jax.cluster import Place, place_of
from nt_jax.options import parser_of

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
# The fields of JobSet v1alpha2 that the file uses, with the types that its API gives them.
JOBSET = {
    "apiVersion": str, "kind": str, "metadata": {"name": str},
    "spec": {
        "failurePolicy": {"maxRestarts": int},
        "network": {"enableDNSHostnames": bool},
        "replicatedJobs": [{"name": str, "replicas": int, "template": dict}],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def jobset() -> dict:
    return yaml.safe_load((LAUNCH / "jobset.yaml").read_text())


def fits(value: Any, shape: Any) -> bool:
    """Whether a value has these fields of these types, and no others."""
    if isinstance(shape, dict):
        same = isinstance(value, dict) and value.keys() == shape.keys()
        return same and all(fits(value[name], inner) for name, inner in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
    return type(value) is shape


def test_the_jobset_has_the_fields_of_its_api_and_no_others(jobset):
    assert fits(jobset, JOBSET)
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and jobset["kind"] == "JobSet"
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", jobset["metadata"]["name"])


def wrong(models: Any, kind: str, value: Any, where: str) -> list[str]:
    """Where a value is not what Kubernetes' own models say of its kind."""
    if found := re.fullmatch(r"[lL]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{where}: no list"]
        return [w for n, each in enumerate(value) for w in wrong(models, found[1], each, f"{n}")]
    if found := re.fullmatch(r"[dD]ict[([]str, (.+)[)\]]", kind):
        return [w for n, each in value.items() for w in wrong(models, found[1], each, n)]
    if kind in ("str", "int", "bool"):
        text = isinstance(value, int) and where == "nvidia.com/gpu"  # a quantity
        right = type(value).__name__ == kind or text
        return [] if right else [f"{where}: {value!r} is no {kind}"]
    model = getattr(models, kind)
    fields = {name: field for field, name in model.attribute_map.items()}
    return [
        problem
        for name, each in value.items()
        for problem in (
            wrong(models, model.openapi_types[fields[name]], each, name)
            if name in fields
            else [f"{where}: unknown field {name}"]
        )
    ]


def test_the_job_is_one_of_kubernetes(jobset):
    models = pytest.importorskip("kubernetes.client.models", reason="pip install kubernetes")
    (job,) = jobset["spec"]["replicatedJobs"]
    assert wrong(models, "V1JobTemplateSpec", job["template"], "template") == []
    spoilt = job["template"]["spec"] | {"paralelism": 2, "backoffLimit": "0"}
    found = wrong(models, "V1JobTemplateSpec", {"spec": spoilt}, "template")
    assert found == ["backoffLimit: '0' is no int", "spec: unknown field paralelism"] or found == [
        "spec: unknown field paralelism", "backoffLimit: '0' is no int",
    ]  # fmt: skip


def test_the_pods_are_the_processes_of_one_run(jobset):
    name = jobset["metadata"]["name"]
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["bash", "-c"] and spec["completionMode"] == "Indexed"
    (line,) = container["args"]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    for index in range(spec["completions"]):
        words = line.replace('"$JOB_COMPLETION_INDEX"', str(index)).split()
        assert words[:4] == ["exec", "python", "-m", "nt_jax.train"]
        options = parser_of("train", "train").read(words[4:])
        host = f"{name}-{job['name']}-0-0.{name}"  # of the first pod, as JobSet names it
        assert place_of(options, {}) == Place(f"{host}:4321", spec["parallelism"], index)
        sizes = [int(word.split("=")[1]) for word in options.overrides]
        assert sizes[0] * sizes[1] == gpus * spec["completions"]
    assert spec["parallelism"] == spec["completions"] and spec["backoffLimit"] == 0


def test_the_example_of_slurm_uses_all_its_gpus():
    text = (LAUNCH / "slurm.sh").read_text()
    asked = {name: int(n) for name, n in re.findall(r"^#SBATCH --([\w-]+)=(\d+)$", text, re.M)}
    sizes = re.search(r"sbatch launch/slurm\.sh \S+ mesh\.data=(\d+) mesh\.model=(\d+)", text)
    assert sizes is not None
    assert int(sizes[1]) * int(sizes[2]) == asked["nodes"] * asked["gpus-per-node"]
    assert asked["ntasks-per-node"] == asked["gpus-per-node"]


def test_slurm_without_a_recipe_is_one_line():
    done = subprocess.run(["bash", LAUNCH / "slurm.sh"], capture_output=True, text=True, cwd="/tmp")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "no recipe" in done.stderr


@pytest.fixture
def by_ray(monkeypatch) -> types.ModuleType:
    """launch/ray_run.py, read as a module."""
    spec = importlib.util.spec_from_file_location("ray_run", LAUNCH / "ray_run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return module


BAD = ([], ["2"], ["2", "0"], ["x", "0", "--config", "a"], ["0", "0", "a"], ["-1", "0", "a"],
       ["2", "½", "a"], ["9" * 5000, "0", "a"], ["٣", "0", "a"])  # fmt: skip


@pytest.mark.parametrize("words", BAD, ids=range(len(BAD)))
def test_words_that_are_no_numbers_are_one_line_by_ray(by_ray, words, capsys):
    assert by_ray.main(words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("launch/ray_run.py: usage: ") and shown.count("\n") == 1


@pytest.mark.parametrize(
    ("address", "known", "said"),
    [
        ("", object(), "RAY_ADDRESS must be HOST:PORT"),
        ("auto", object(), "RAY_ADDRESS must be HOST:PORT"),
        ("127.0.0.1:1", None, "needs the package ray"),
        ("127.0.0.1:1", object(), "no Ray cluster answers"),
    ],
)
def test_what_ray_lacks_is_one_line(by_ray, address, known, said, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: known)
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert by_ray.main(["2", "0", "--config", "smollm2-135m"]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1 and "ray" not in sys.modules
