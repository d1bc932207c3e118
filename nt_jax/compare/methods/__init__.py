"""The methods that are compared, one file each; nt_jax/config/registry.py lists them."""
