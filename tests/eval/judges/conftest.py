"""A tiny classifier to judge with."""

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """A tiny random RoBERTa with two labels; its weights are large, so that both occur."""
    torch = pytest.importorskip("torch")
    import transformers

    folder = tmp_path_factory.mktemp("models") / "classifier"
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny.tokenizer_directory())
    config = transformers.RobertaConfig(
        vocab_size=tiny.VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=514, num_labels=2, pad_token_id=0,
        initializer_range=1.0,
    )  # fmt: skip
    torch.manual_seed(3)
    transformers.RobertaForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
