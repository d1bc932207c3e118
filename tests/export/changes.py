"""What differs between two models, by the names that Hugging Face gives tensors."""

import jax
import numpy as np

from nt_jax.checkpoints.keymap import rules_for, to_hf
from nt_jax.models.leaves import get_leaf, leaf_names
from nt_jax.models.transformer import LanguageModel


def changes(before: LanguageModel, after: LanguageModel) -> dict[str, np.ndarray]:
    """HF tensor name -> after - before, float32 in HF layout, of each tensor that differs.

    Leaves that the two models share are not looked at.
    """
    rules, found = {rule.ours: rule for rule in rules_for(before.config)}, {}
    leaves = (jax.tree.leaves(model.frozen) for model in (before, after))
    for name, *same in zip(leaf_names(before), *leaves, strict=True):
        if same[0] is same[1]:
            continue
        rule = rules[name]
        both = (get_leaf(model, name) for model in (before, after))  # of published heads
        old, new = (leaf if rule.stacked else leaf[None] for leaf in both)
        for layer, tensor in enumerate(rule.hf_names(before.config.layers)):
            delta = np.asarray(new[layer], np.float32) - np.asarray(old[layer], np.float32)
            if delta.any():
                found[tensor] = to_hf(delta, rule, before.config.sizes)
    return found
