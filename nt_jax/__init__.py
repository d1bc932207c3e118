"""nt_jax: NeuronTune in JAX. Safe under attack, and still helpful."""

__version__ = "0.1.0"
