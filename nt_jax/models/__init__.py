"""Chat models: configuration, weights, forward pass, decoding, and the way back to HF files."""
