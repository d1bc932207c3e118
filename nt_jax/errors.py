"""Errors that a user can act on: each message says what is wrong, where, and what to do next."""

from collections.abc import Mapping


def brief(error: BaseException) -> str:
    """What an error of a library says, on one line of a length that can be read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def panicked(error: BaseException) -> bool:
    """Whether a library's Rust part gave up: its PanicException is no Exception."""
    return not isinstance(error, Exception) and type(error).__name__ == "PanicException"


class NtError(Exception):
    """Base of every error that an entry point prints as plain lines, without a traceback."""

    exit_code = 2


class ConfigError(NtError):
    """A recipe, a dotted override or a command line that cannot be used as it is."""


class CheckpointError(NtError):
    """A model directory or file that is broken, incomplete, or computes something we do not."""


class DataError(NtError):
    """A data file, a row of it, or a prompt that cannot be used as it is."""


class RunError(NtError):
    """A run directory or a training run that cannot go on."""


class UnfinishedError(RunError):
    """A run that is at its end, but for prompts or judge calls that failed: repeat it."""

    exit_code = 3


class SomeFailedError(RunError):
    """Prompts that got no answer while others were answered: `reasons` by their place among all."""

    def __init__(self, reasons: Mapping[int, NtError]) -> None:
        self.reasons = dict(sorted(reasons.items()))
        first = next(iter(self.reasons.values()))
        count = len(self.reasons)
        super().__init__(f"{count} prompts failed. The first: {first}" if count > 1 else str(first))


class DivergedError(RunError):
    """A tuning whose losses or factors are no longer finite: other settings may do."""
