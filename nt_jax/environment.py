"""What a command sets for its process before jax and the Hugging Face libraries are imported."""

import logging
import os
import sys
import warnings
from collections.abc import MutableMapping
from pathlib import Path

QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}


def prepare_environment(environ: MutableMapping[str, str]) -> None:
    """Set what jax and the Hugging Face libraries read at import, unless the user has set it."""
    for name, value in QUIET.items():
        environ.setdefault(name, value)
    caches = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(caches) / "nt_jax" / "xla"))


def silence_libraries() -> None:
    """Keep other people's warnings off the screen; their errors and all of ours still show."""
    if not sys.warnoptions:  # `python -W ...` and PYTHONWARNINGS are the user's own choice
        warnings.simplefilter("ignore")
    handler = logging.StreamHandler()
    handler.addFilter(
        lambda record: record.levelno >= logging.ERROR or record.name.partition(".")[0] == "nt_jax"
    )
    logging.basicConfig(handlers=[handler], format="nt_jax: %(message)s")
