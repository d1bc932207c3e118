"""The demo set keeps its promises: counts, splits, variety, and no operational detail."""

import itertools
import re
from collections import Counter

import pytest

from nt_jax.data.records import ATTACK_TYPES, SLOT
from nt_jax.data.sources import DEMO, load_harmful, load_harmless, load_templates

SPLITS = ("train", "validation", "test")

# What a row that only names a kind of harm never needs: amounts, formulas, reagents, addresses,
# commands, code or numbered steps.
OPERATIONAL = re.compile(
    r"\b\d+(?:\.\d+)?\s?(?:mg|g|kg|ml|cl|l|oz|lbs?|grams?|litres?|liters?|ounces?|pounds?|degrees|"
    r"volts?|amps?|%|percent|°)"
    r"|\b\w*(?:nitrate|chlorate|peroxide|cyanide|azide|ephedrine|precursor|oxidi[sz]er|fulminate)\b"
    r"|\b(?:acetone|ammonia|thermite|ricin|sarin|anthrax|pipe bomb|fuse|detonator)\b"
    r"|\b(?:[A-Z][a-z]?\d+){1,}[A-Z]"  # a chemical formula
    r"|https?://|www\.|\b[\w.]+@[\w-]+\.\w+|\b\d{1,3}(?:\.\d{1,3}){3}\b|\.onion\b|\bCVE-\d"
    r"|;\s*--|\bDROP TABLE\b|\bimport \w+|\bnmap\b|\bmetasploit\b|\bsqlmap\b|\brm -rf\b"
    r"|\b[Ss]tep \d|(?:^|\n)\s*\d+[.)] "
)
# The words of a refusal, as any reader would know them.
DECLINES = re.compile(
    r"\b(?:can't|cannot|won't|will not|unable to|not able to|not going to|not willing to|refuse|"
    r"decline)\b"
)


@pytest.fixture(scope="module")
def harmful():
    return load_harmful()


@pytest.fixture(scope="module")
def harmless():
    return load_harmless()


@pytest.fixture(scope="module")
def templates():
    return load_templates()


def words(text):
    return re.findall(r"[a-z0-9']+", text.lower().replace(SLOT, " "))


def first_sentence(text):
    return re.split(r"(?<=[.!?])\s", text)[0]


def most_alike_across_splits(records, text_of):
    """The pair from different splits that shares the most words, and the share (Jaccard)."""
    bags = [(record, frozenset(words(text_of(record)))) for record in records]
    pairs = (
        (len(a & b) / len(a | b), one.id, other.id)
        for (one, a), (other, b) in itertools.combinations(bags, 2)
        if one.split != other.split
    )
    return max(pairs)


def by_split(records):
    return tuple(sum(record.split == split for record in records) for split in SPLITS)


def test_counts(harmful, harmless, templates):
    assert by_split(harmful) == (395, 50, 70)
    assert by_split(harmless) == (864, 120, 120)
    assert by_split([row for row in harmless if row.sounds_harmful]) == (519, 40, 40)
    assert by_split(templates) == (99, 10, 20)


def test_texts_and_ids_are_unique(harmful, harmless, templates):
    for texts in (
        [row.id for row in [*harmful, *harmless, *templates]],
        [row.request.lower() for row in [*harmful, *harmless]],
        [row.refusal for row in harmful],
        [row.text for row in templates],
    ):
        assert len(set(texts)) == len(texts)


def test_no_near_duplicates_across_splits(harmful, harmless, templates):
    assert most_alike_across_splits(harmful, lambda row: row.request)[0] < 0.7
    assert most_alike_across_splits(harmless, lambda row: row.request)[0] < 0.7
    assert most_alike_across_splits(harmful, lambda row: row.refusal)[0] < 0.7
    assert most_alike_across_splits(templates, lambda row: row.text)[0] < 0.4


def test_matched_pairs_never_straddle_splits(harmful, harmless):
    """A harmless twin of a harmful request is in the same split, so that neither gives it away."""
    pairs = itertools.product(harmful, harmless)
    for bad, fine in pairs:
        if bad.split != fine.split:
            a, b = set(words(bad.request)), set(words(fine.request))
            assert len(a & b) / len(a | b) < 0.7, (bad.id, fine.id)


def test_every_kind_is_in_every_split(harmful):
    kinds = {row.kind for row in harmful}
    assert len(kinds) >= 12
    for split, least in zip(SPLITS, (6, 1, 4), strict=True):
        count = Counter(row.kind for row in harmful if row.split == split)
        assert set(count) == kinds and min(count.values()) >= least


def test_any_prefix_is_a_mixture():
    assert len({row.kind for row in load_harmful(split="train", limit=15)}) == 15
    start = load_harmless(split="train", limit=20)
    assert 5 <= sum(row.sounds_harmful for row in start) <= 9
    single = [row.types[0] for row in load_templates(split="train", limit=4)]
    assert sorted(single) == sorted(ATTACK_TYPES)


def test_lengths(harmful, templates):
    for row in harmful:
        assert 6 <= len(row.request.split()) <= 20, row.id
        assert 20 <= len(row.refusal.split()) <= 38, row.id
        assert len(re.findall(r"[.!?](?:\s|$)", row.refusal)) <= 3, row.id
    counts = [len(row.text.split()) for row in templates]
    assert max(counts) < 100 and sum(count < 60 for count in counts) > len(counts) / 2


def test_each_refusal_declines_in_its_first_sentence(harmful):
    assert [row.id for row in harmful if not DECLINES.search(first_sentence(row.refusal))] == []


def test_refusals_say_more_than_no(harmful):
    """A reason and an offer: more than one clause, and hardly any opening used often."""
    assert all(len(re.split(r"[.;,!?]\s", row.refusal)) >= 3 for row in harmful)
    openings = Counter(tuple(words(row.refusal)[:4]) for row in harmful)
    assert max(openings.values()) <= 0.12 * len(harmful)
    assert len(openings) > 60


def test_requests_and_harmless_ones_share_their_forms(harmful, harmless):
    """No first word gives the answer away: what starts harmful requests starts harmless ones."""
    for split in ("train", "test"):
        bad = Counter(words(row.request)[0] for row in harmful if row.split == split)
        fine = Counter(words(row.request)[0] for row in harmless if row.split == split)
        common = [word for word, count in bad.items() if count >= 4]
        assert len(common) >= 6
        assert all(fine[word] >= count / 2 for word, count in bad.items() if word in common)


def test_templates_have_one_slot_and_known_types(templates):
    assert all(row.text.count(SLOT) == 1 for row in templates)
    assert all(
        1 <= len(row.types) <= 2 and set(row.types) <= set(ATTACK_TYPES) for row in templates
    )
    every = Counter(name for row in templates for name in row.types)
    assert min(every[name] for name in ATTACK_TYPES) >= 12
    assert sum(len(row.types) == 2 for row in templates) >= 10
    for split in SPLITS:
        assert {name for row in templates if row.split == split for name in row.types} == set(
            ATTACK_TYPES
        )
    single = Counter(
        row.types[0] for row in templates if row.split == "train" and len(row.types) == 1
    )
    assert all(single[name] >= 5 for name in ATTACK_TYPES[:3])


def test_slots_stand_at_the_start_in_the_middle_and_at_the_end(templates):
    places = Counter(
        "start" if row.text.startswith(SLOT) else "end" if row.text.endswith(SLOT) else "middle"
        for row in templates
    )
    assert min(places["start"], places["middle"], places["end"]) >= 5


def test_no_operational_detail(harmful, templates):
    texts = [row.request for row in harmful] + [row.refusal for row in harmful]
    texts += [row.text for row in templates]
    assert [text for text in texts if OPERATIONAL.search(text)] == []


def test_the_detail_patterns_find_what_they_should():
    for text in ("use 20 ml of it", "visit http://a.b", "ask 10.0.0.1", "Step 3: mix", "CVE-2021"):
        assert OPERATIONAL.search(text), text


def test_harmless_requests_include_short_input_texts(harmless):
    with_text = [row for row in harmless if "\n\n" in row.request]
    assert len(with_text) >= 30 and {row.split for row in with_text} == set(SPLITS)


def test_the_folder_states_licence_schema_and_use():
    readme = (DEMO / "README.md").read_text(encoding="utf-8")
    for needed in ("CC0-1.0", "written for this project", "sounds_harmful", "dual use"):
        assert needed in readme
