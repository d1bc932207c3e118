"""The factors alone: a few kilobytes that any copy of the base becomes the tuned model with."""

from pathlib import Path

from nt_jax.checkpoints.checkpoint import fingerprint
from nt_jax.checkpoints.factors import FILE, FactorsFile, save_factors
from nt_jax.export.folder import ExportReport, Wanted, appearing, by_first, digests
from nt_jax.export.peft import base_name, report_of
from nt_jax.generate.chat import ChatModel
from nt_jax.models.neurons import Factors


@by_first
def write(model: ChatModel, factors: Factors, out: Path, wanted: Wanted) -> ExportReport:
    """The factors as nt_jax/checkpoints/factors.py reads them."""
    checkpoint = model.checkpoint
    size = checkpoint.config
    scale_LF = factors.scale_LF(size.layers, size.neurons)
    layers = [layer for layer, row_F in enumerate(scale_LF) if (row_F != 1).any()]
    strength = "" if wanted.strength is None else str(wanted.strength)
    base = base_name(checkpoint, wanted)
    found = FactorsFile(factors, size.layers, size.neurons, base, fingerprint(checkpoint), strength)
    with appearing(out, 13 * len(factors.theta_P)) as work:
        save_factors(work / FILE, found)
        files = digests(work)
    return report_of(checkpoint, layers, out, files)
