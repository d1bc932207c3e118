"""Where an export may stand."""

import json

import pytest

from nt_jax.errors import CheckpointError
from nt_jax.export.folder import check_free


def test_no_export_goes_into_a_stage_of_a_run(tmp_path):
    run = tmp_path / "run"
    (run / "export" / "hf").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"keys": {"export": "k", "eval": "k"}}))
    for out in ("export/gguf", "export", "export/hf/deep", "eval"):
        with pytest.raises(CheckpointError, match=r"is a stage of a run.*a folder beside it"):
            check_free(run / out)
    check_free(run / "gguf")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text("[of another program")
    check_free(tmp_path / "other" / "export")
