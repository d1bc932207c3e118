"""The example of the README runs as it is printed, on a tiny model."""

import runpy
from pathlib import Path

import jax
from safetensors.numpy import load_file

from tests import tiny

EXAMPLE = Path(__file__).parents[1] / "examples" / "paper_in_30_lines.py"


def test_paper_in_30_lines(tmp_path, capsys):
    text = EXAMPLE.read_text()
    body = text[text.index("def main") : text.index("if __name__")].splitlines()
    assert len([line for line in body if line.strip()]) <= 30
    source, tuned = tiny.copy("smollm2", tmp_path / "tiny"), tmp_path / "tuned"
    tiny.edit_json(source / "config.json", max_position_embeddings=1024)
    with jax.numpy_dtype_promotion("standard"):  # Adam mixes its types
        main = runpy.run_path(str(EXAMPLE))["main"]
        rows = main(str(source), str(tuned), (14, 10), epochs=1, limit=2)
    sets = {row.dataset for row in rows if row.metric == "refusal_rate"}
    assert {"demo_attack", "demo_direct", "demo_harmless"} <= sets
    assert {row.model for row in rows} == {"base", "tuned"}
    assert capsys.readouterr().out.count("refuses") == 6
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tuned))
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved and all(name.endswith("down_proj.weight") for name in moved)
