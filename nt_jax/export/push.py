"""A finished export put onto the hub, by the hub's own client.

Tested against a server on this machine that answers as the hub does; never run on the hub itself.
"""

from pathlib import Path

from nt_jax.errors import ConfigError, RunError
from nt_jax.export.folder import HUB_ID


def check_push(repo: str) -> None:
    """Raises a ConfigError where pushing to `repo` cannot work: before anything is written."""
    import huggingface_hub as hub

    if not HUB_ID.fullmatch(repo):
        raise ConfigError(f"--push {repo}: a repository on the hub is called OWNER/NAME.")
    if hub.get_token() is None:
        raise ConfigError(
            f"--push {repo} needs a token that may write: log in with `hf auth login`, or set "
            "HF_TOKEN. Nothing was written."
        )


def push(folder: Path, repo: str) -> str:
    """Upload a folder; the repository is made where there is none, and is private then."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    # Its base is the network error of whichever HTTP library this version of the hub uses.
    transport_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        hub.create_repo(repo, private=True, exist_ok=True)
        done = hub.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="NeuronTune by nt_jax"
        )
    except (errors.HfHubHTTPError, transport_error, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(
            f"the hub did not take {folder} as {repo} ({reason}). The export is whole; push it "
            f"again with: hf upload {repo} {folder}"
        ) from error
    return str(done)
