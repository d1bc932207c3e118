"""One tiny model and one finished run on it, which many tests look at and none may change."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import tiny
from tests.run import small


@dataclass(frozen=True)
class Finished:
    """A finished run: copy its folder to change it."""

    recipe: Path
    model: Path
    folder: Path
    screen: str


MADE: list[Finished] = []


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A tiny chat model with room for the demo's prompts (about one token a character)."""
    directory = tiny.copy("smollm2", tmp_path_factory.mktemp("models") / "tiny")
    tiny.edit_json(directory / "config.json", max_position_embeddings=1024)
    return directory


@pytest.fixture(scope="session")
def recipe(model, tmp_path_factory) -> Path:
    """A recipe that names the tiny model."""
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(f"model: {{source: {model}}}\n")
    return path


@pytest.fixture(scope="session")
def finished(model, recipe, tmp_path_factory) -> Finished:
    """A run from checkpoint to report, made once per process: tests/compare looks at it too."""
    if not MADE:
        folder = tmp_path_factory.mktemp("runs") / "full"
        screen = small.carry_on(small.settings(recipe, folder))
        MADE.append(Finished(recipe, model, folder, screen))
    return MADE[0]
