"""Letter likelihoods against torch, one unpadded prompt at a time, on tiny random models."""

import numpy as np
import pytest

from nt_jax.checkpoints.checkpoint import load_model, open_checkpoint
from nt_jax.checkpoints.tokenizer import load_tokenizer
from nt_jax.data.records import ChoiceQuestion
from nt_jax.errors import CheckpointError, DataError
from nt_jax.eval.letters import encode_question, letter_tokens, score_letters
from nt_jax.eval.multiple_choice import prompt_text
from nt_jax.eval.prompts import TestChoice
from nt_jax.mesh import make_mesh
from tests import tiny, torch_twin

CHOICES = [
    TestChoice(
        "sums",
        ChoiceQuestion(f"q{n}", f"{n}+{n}?", (str(n), str(2 * n), "0", "9"), 1),
        (ChoiceQuestion("s", "1+1?", ("1", "2"), 1),) * (n % 2),
    )
    for n in range(5)
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(open_checkpoint(str(tiny.checkpoint("llama2"))))


@pytest.mark.parametrize("family", ["llama2", "qwen2"])
def test_log_probabilities_of_letters_equal_torch(family, tokenizer):
    """In torch: log-likelihood of the text " A" after the prompt, all its tokens summed."""
    torch = pytest.importorskip("torch")
    lm = load_model(str(tiny.checkpoint(family)), "float32", make_mesh(data=2))
    scale_LF = lm.ones_LF.at[0, :20].set(2.0)
    between, letters = letter_tokens(tokenizer, 4)
    encoded = [encode_question(tokenizer, choice, 256)[0] for choice in CHOICES]
    found = np.zeros((len(CHOICES), 4))

    def keep(rows, log_prob_RC):
        found[rows] = log_prob_RC

    prompts = [[*ids, *between] for ids in encoded]
    score_letters(lm, scale_LF, prompts, letters, batch_size=2, on_batch=keep)
    with torch_twin.scaled(torch_twin.load(family), torch.from_numpy(np.array(scale_LF))):
        for row, choice in enumerate(CHOICES):
            text = prompt_text(choice, len(choice.shots))
            whole = [tokenizer.encode(f"{text} {letter}") for letter in "ABCD"]
            assert [ids[:-1] for ids in whole] == [prompts[row]] * 4
            with torch.no_grad():
                logits_V = torch_twin.load(family)(torch.tensor(whole[:1])).logits[0, -2]
            log_prob_V = logits_V.log_softmax(-1)
            expected = [float(log_prob_V[ids[-1]]) for ids in whole]
            np.testing.assert_allclose(found[row], expected, atol=1e-4)


class Words:
    """A tokenizer that writes one token per character, spaces apart or joined to what follows."""

    name_or_path = "words"

    def __init__(self, joined: bool, lost: str = ""):
        self.joined, self.lost = joined, lost

    def encode(self, text, add_special_tokens=True):
        if self.joined:
            text = text.replace(" ", "")
        return [0 if letter in self.lost else ord(letter) for letter in text]


def test_letters_with_and_without_a_space_of_their_own():
    assert letter_tokens(Words(False), 2) == ([32], [65, 66])
    assert letter_tokens(Words(True), 2) == ([], [65, 66])
    with pytest.raises(CheckpointError, match="does not write the letters A, B"):
        letter_tokens(Words(True, lost="AB"), 2)


def test_the_first_examples_give_way_where_the_context_is_short(tokenizer):
    shots = tuple(ChoiceQuestion(f"s{n}", f"{n}?", ("1", "2"), 1) for n in range(4))
    choice = TestChoice("sums", CHOICES[0].question, shots)
    lengths = [len(tokenizer.encode(prompt_text(choice, n))) for n in range(5)]
    ids, shown = encode_question(tokenizer, choice, lengths[2] + 1)
    assert shown == 2 and len(ids) == lengths[2]
    assert "2?" in tokenizer.decode(ids) and "1?" not in tokenizer.decode(ids)
    with pytest.raises(DataError, match=r"sums, question q0: .* without any worked example"):
        encode_question(tokenizer, choice, lengths[0] - 1)
