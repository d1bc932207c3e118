"""Every default is the paper's, or stands in the one table of departures."""

from pathlib import Path

import pytest

from nt_jax.config import paper
from nt_jax.config.help import setting_table
from nt_jax.config.method import ADAM_STEP, TuneConfig
from nt_jax.config.schema import RunConfig

SECTIONS = ("data", "attribution", "neurons", "tune", "eval")
PLAIN = RunConfig.model_validate({"name": "plain", "model": {"source": "m"}})
DEFAULTS = PLAIN.model_dump(mode="json")
DOCS = Path(__file__).parents[2] / "docs" / "method.md"


def default(key: str):
    section, _, name = key.partition(".")
    return DEFAULTS[section][name]


def test_every_setting_has_one_place():
    """A new default stands in the table, or among those that the paper has too."""
    rows = [row.key for row in paper.DEPARTURES]
    placed = [*rows, *paper.AS_PRINTED, *paper.OURS, *paper.NO_PART]
    settings = {key for key in setting_table() if key.partition(".")[0] in SECTIONS}
    assert set(placed) == settings
    assert len(placed) == len(set(placed))


@pytest.mark.parametrize("row", paper.DEPARTURES, ids=lambda row: row.key)
def test_a_row_of_the_table_is_a_departure(row):
    assert default(row.key) != (list(row.paper) if isinstance(row.paper, tuple) else row.paper)
    assert row.buys


def test_the_paper_replaces_defaults_and_nothing_else():
    found = TuneConfig(algorithm="paper", token_decay=0.5, epochs=7)
    assert (found.token_decay, found.epochs) == (0.5, 7)
    for key, value in paper.paper_section("tune").items():
        if key != "token_decay":
            assert getattr(found, key) == value
    told = PLAIN.model_copy(update={"tune": found}).model_dump(mode="json")
    left = {row.key for row, _ in paper.departures(told) if row.key.startswith("tune.")}
    assert left == {"tune.token_decay"}


@pytest.mark.parametrize("key", [*paper.AS_PRINTED, "tune.inner_steps"])
def test_what_the_default_shares_with_the_paper_is_a_departure_once_changed(key):
    section, _, name = key.partition(".")
    told = PLAIN.model_dump(mode="json")
    told[section][name] = 0 if name == "inner_steps" else "another"
    assert key in [row.key for row, _ in paper.departures(told)]


def test_a_step_of_another_kind_keeps_its_own_size():
    assert TuneConfig(algorithm="paper", outer="adam").meta_lr == ADAM_STEP
    assert TuneConfig(algorithm="paper").meta_lr != TuneConfig().meta_lr


def test_the_default_is_untouched_by_the_paper():
    assert TuneConfig(algorithm="nt_jax") == TuneConfig()
    departing = {row.key for row, _ in paper.departures(DEFAULTS)}
    assert departing == {row.key for row in paper.DEPARTURES}


def test_the_docs_hold_the_table():
    text = DOCS.read_text(encoding="utf-8")
    inside = text.partition("<!-- departures -->\n")[2].partition("\n<!-- /departures -->")[0]
    assert inside == paper.markdown_table(DEFAULTS), paper.markdown_table(DEFAULTS)
