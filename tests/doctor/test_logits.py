"""Our logits beside those of a file, as doctor compares them."""

import io
import os
import zipfile

import numpy as np
import pytest

from nt_jax import cli
from nt_jax.doctor import logits, look
from nt_jax.doctor.subject import find_subject
from nt_jax.errors import DataError
from nt_jax.limits import DATA_BYTES
from tests import tiny
from tests.doctor.asking import asked


@pytest.fixture(scope="module")
def reference() -> tuple[np.ndarray, np.ndarray]:
    """Tokens, and what transformers makes of them."""
    torch = pytest.importorskip("torch")
    tokens = np.random.default_rng(0).integers(3, tiny.VOCAB, 24)
    with torch.no_grad():
        given = tiny.torch_model("qwen2")(torch.tensor(tokens)[None]).logits[0].numpy()
    return tokens, given


def test_our_logits_agree_with_those_of_transformers(reference, tmp_path, capsys, monkeypatch):
    np.savez(tmp_path / "ref.npz", tokens=reference[0], logits=reference[1])
    model, file = str(tiny.checkpoint("qwen2")), str(tmp_path / "ref.npz")
    code, found = asked(capsys, monkeypatch, model, "--logits", file)
    assert code == 0 and found["logits"]["agree"] and found["logits"]["same_best"] == 1.0
    assert found["logits"]["tokens"] == 24 and found["logits"]["max_difference"] < 1e-4
    other = str(tiny.checkpoint("qwen2", seed=1))  # the same sizes, other weights
    code, found = asked(capsys, monkeypatch, other, "--logits", file)
    assert code == 3 and not found["logits"]["agree"] and found["logits"]["max_divergence"] > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, x: {"tokens": t}, "cannot be read as reference logits"),
        (lambda t, x: {"tokens": t[None], "logits": x}, "tokens must be whole numbers"),
        (lambda t, x: {"tokens": t, "logits": x[:, :9]}, "logits must be floats of shape"),
        (lambda t, x: {"tokens": t + 10**6, "logits": x}, "a token is not in the vocabulary"),
        (lambda t, x: {"tokens": t, "logits": x * np.nan}, "a logit is not finite"),
    ],
)
def test_a_wrong_file_is_one_line(change, message, reference, tmp_path, capsys, monkeypatch):
    np.savez(tmp_path / "ref.npz", **change(*reference))
    monkeypatch.setattr(cli, "_enter", lambda: None)
    monkeypatch.delattr(look, "timed")  # the file is read before this is reached
    words = [str(tiny.checkpoint("qwen2")), "--logits", str(tmp_path / "ref.npz"), "--json"]
    assert cli.main("doctor", words) == 2
    err = capsys.readouterr().err.splitlines()
    assert len([line for line in err if line.startswith("nt_jax: ")]) == 1 and message in err[-1]


def _flipped(path, tokens, given):
    np.savez_compressed(path, tokens=tokens, logits=given)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def _huge(path, tokens, given, side=2**30):
    """A header of 2^60 numbers, and none of them."""
    with zipfile.ZipFile(path, "w") as parts:
        for name in ("tokens", "logits"):
            with parts.open(f"{name}.npy", "w") as file:
                form = {"descr": "<f4", "fortran_order": False, "shape": (side, side)}
                np.lib.format.write_array_header_1_0(file, form)


def _unpacks(path, tokens, given):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as parts:
        for name in ("tokens", "logits"):
            parts.writestr(f"{name}.npy", bytes(1 << 20))


BROKEN = {
    "an array": lambda path, tokens, given: path.write_bytes(_npy(given)),
    "a flipped byte": _flipped,
    "a huge header": _huge,
    "a side that is no number of C": lambda *words: _huge(*words, side=2**70),
    "nothing": lambda path, tokens, given: path.touch(),
    "a pipe": lambda path, tokens, given: os.mkfifo(path),
    "more than is read": _unpacks,
}


def _npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("name", BROKEN)
def test_broken_reference_logits_are_one_line(name, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(logits, "DATA_BYTES", DATA_BYTES._replace(value=1_000_000))
    path = tmp_path / "ref.npz"
    BROKEN[name](path, *reference)
    subject = find_subject(str(tiny.checkpoint("qwen2")), (1, 1))
    with pytest.raises(DataError, match="cannot be read as reference logits"):
        logits.read_reference(subject, path)


def test_logits_that_are_far_apart_have_a_divergence():
    given = np.array([[1e308, -1e308, 0.0], [3.0, 2.0, 1.0]])
    found = logits.apart(np.zeros_like(given), given)
    assert found["max_divergence"] == pytest.approx(np.log(3)) and not found["agree"]
    same = logits.apart(given, given)
    assert (same["max_divergence"], same["same_best"], same["agree"]) == (0.0, 1.0, True)
