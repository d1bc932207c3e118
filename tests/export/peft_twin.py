"""Adapters as PEFT itself loads and merges them."""

import contextlib
import warnings
from pathlib import Path

import numpy as np
import pytest


def peft():
    """The library, which is in the extra `test`."""
    return pytest.importorskip("peft")


def torch_model(folder: Path, dtype=None):
    """The checkpoint as transformers loads it; `dtype` None: as stored."""
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype or "auto").eval()


@contextlib.contextmanager
def as_it_is():
    """Every warning is an error (a key that PEFT does not find is one), but for one of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deprecated = "`is_gradient_checkpointing` is deprecated"
        warnings.filterwarnings("ignore", deprecated, FutureWarning)
        yield


def adapted(base: Path, adapter: Path, dtype=None):
    """The base model with the adapter loaded, not merged."""
    with as_it_is():
        return peft().PeftModel.from_pretrained(torch_model(base, dtype), adapter).eval()


def merged(base: Path, adapter: Path, dtype=None):
    """The plain model that PEFT's merge makes."""
    return adapted(base, adapter, dtype).merge_and_unload()


def bits(model) -> dict[str, np.ndarray]:
    """Tensor name -> its bytes."""
    torch = pytest.importorskip("torch")
    return {n: x.contiguous().view(torch.uint8).numpy() for n, x in model.state_dict().items()}


def logits(model, tokens) -> np.ndarray:
    """Float32 logits of every position."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return model(torch.from_numpy(np.asarray(tokens)).long()).logits.float().numpy()
