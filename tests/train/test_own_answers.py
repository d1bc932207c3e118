"""What tuning reads: records, the model's own answers, and prompts that must fit."""

import collections
import dataclasses
import json
import types

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nt_jax.checkpoints.checkpoint import open_checkpoint
from nt_jax.config.schema import RunConfig
from nt_jax.data.records import AttackTemplate, HarmfulRequest, HarmlessRequest
from nt_jax.errors import DataError, RunError
from nt_jax.eval.judges.phrase_judge import load_judge
from nt_jax.generate.session import SAMPLE_BYTES, fingerprint
from nt_jax.run.attribute import choose_templates
from nt_jax.train import own_answers as prepare
from nt_jax.train import validate
from nt_jax.train.pools import Pair
from tests import tiny

EOS = 2
TEMPLATES = [
    AttackTemplate(f"t{n}", f"{n} says {{request}}", (kind,))
    for n, kind in enumerate(["pretending", "emotion", "pretending", "attention shifting"])
]
RECORDS = prepare.Records(
    [HarmfulRequest(f"h{n}", f"harm {n}", f"No {n}.", "") for n in range(3)],
    [HarmlessRequest(f"u{n}", f"ask {n}", f"Yes {n}." if n else None, n == 2) for n in range(3)],
    TEMPLATES,
)


def session(context: int = 64, answers=None, **data):
    """A session without a model: one token a character, scripted answers."""
    config = RunConfig.model_validate({
        "name": "x", "model": {"source": "m"}, "data": data,
        "tune": {"answer_tokens": 4, "metric_requests": 0},
        "attribution": {"answer_tokens": 4},
    })  # fmt: skip
    texts = {} if answers is None else answers
    return types.SimpleNamespace(
        config=config,
        eos_id=EOS,
        judge=load_judge("phrases"),
        checkpoint=types.SimpleNamespace(config=types.SimpleNamespace(max_positions=context)),
        encode=lambda text: [*text.encode()],
        answer_ids=lambda text: [*text.encode(), EOS],
        text=lambda ids: bytes(ids).decode(),
        answer=lambda asked, width, label, openings=None: [
            [*texts[text].encode()][:width] for text in asked
        ],
    )


# --- what is learned as a refusal -----------------------------------------------------------------


def harmful(*answers: str | None) -> prepare.Records:
    rows = [HarmfulRequest(f"h{n}", f"harm {n}", text, "") for n, text in enumerate(answers)]
    return dataclasses.replace(RECORDS, harmful=rows)


def test_of_the_given_answers_those_that_refuse_are_learned():
    judge = load_judge("phrases")
    sorry, crime = "I'm sorry, but I can't help with that.", "Paris lies on the Seine."
    kept = prepare.refusals_only(judge, harmful(sorry, crime, None, sorry))
    assert [row.id for row in kept.harmful] == ["h0", "h2", "h3"]  # one without answer stays
    assert kept.harmless == RECORDS.harmless and kept.templates == TEMPLATES
    with pytest.raises(DataError, match=r"of 3 safe answers .* 1 for refusals .*: row h1\)"):
        prepare.refusals_only(judge, harmful(sorry, crime, crime))


# --- the model's own answers ---------------------------------------------------------------------


def test_a_question_that_a_file_repeats_for_each_attack_is_tuned_on_once():
    paired = [HarmfulRequest(str(n), f"q{n % 2}", "No.", "", None, f"attack {n}") for n in range(5)]
    assert [row.id for row in prepare.each_question_once(paired)] == ["0", "1"]
    assert prepare.each_question_once(RECORDS.harmful * 2) == RECORDS.harmful * 2


def test_own_answers_are_kept_with_their_verdict_and_end(tmp_path):
    asked = [f"ask {n}" for n in range(3)] + RECORDS.attacked(["ask 0", "ask 2"])
    answers = dict.fromkeys(asked, "Sure, why not.") | {"ask 1": "No.", "ask 2": ""}
    prepare.write_own_answers(session(answers=answers), RECORDS, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "own_answers.jsonl").read_text().splitlines()]
    assert [row["set"] for row in rows] == ["harmless"] * 3 + ["attacked"] * 2
    own = prepare.read_own_answers(tmp_path, EOS)
    useful, refused = own["harmless"]
    assert useful == [Pair("ask 0", [*b"Sure"])]  # cut at four tokens, so no end is to be learned
    assert refused == [Pair("ask 1", [*b"No.", EOS])]  # and an empty answer is none at all
    assert len(own["attacked"][0]) == 2


@pytest.mark.parametrize(("share", "local"), [(0.05, 1), (0.25, 3), (0.5, 5)])
def test_the_inner_loop_keeps_the_share_of_the_data_it_was_given(share, local, tmp_path):
    train = prepare.Records(
        [HarmfulRequest(f"h{n}", f"harm {n}", "No.", "") for n in range(10)],
        [HarmlessRequest(f"u{n}", f"ask {n}", "Yes.") for n in range(10)],
        [AttackTemplate(f"t{n}", f"{n} says {{request}}", ()) for n in range(10)],
    )
    asks = session(answers=collections.defaultdict(lambda: "Yes."))
    tune = asks.config.tune.model_copy(update={"local_fraction": share})
    asks.config = asks.config.model_copy(update={"tune": tune})
    prepare.write_own_answers(asks, train, tmp_path)
    made = prepare.pools(asks, train, tmp_path)
    assert len(made.local_safety.direct) == len(made.local_safety.templates) == local
    assert len(made.global_safety.direct) == len(made.global_safety.templates) == 10 - local
    assert len(made.local_utility.direct) == local
    assert len(made.global_utility.direct) == 10 - local


def test_refusals_of_harmful_requests_are_asked_for_only_where_they_are_targets(tmp_path):
    every = [f"ask {n}" for n in range(3)] + RECORDS.attacked(["ask 0", "ask 2"])
    answers = dict.fromkeys([*every, *(f"harm {n}" for n in range(3))], "No.")
    asks = session(answers=answers, safety_targets="self")
    prepare.write_own_answers(asks, RECORDS, tmp_path)
    own = prepare.read_own_answers(tmp_path, EOS)
    pairs = prepare.safety_pairs(asks, RECORDS, own)
    assert pairs == [Pair(f"harm {n}", [*b"No.", EOS]) for n in range(3)]
    with pytest.raises(DataError, match="refused 0 of 3"):
        prepare.safety_pairs(asks, RECORDS, {"harmful": (pairs, [])})


def test_refusals_of_harmless_requests_open_like_the_safety_targets(tmp_path):
    asked = [f"ask {n}" for n in range(3)] + RECORDS.attacked(["ask 0", "ask 2"])
    asks = session(answers=dict.fromkeys(asked, "Sure."))
    tune = asks.config.tune.model_copy(update={"metric_requests": 3})
    asks.config = asks.config.model_copy(update={"tune": tune})
    prepare.write_own_answers(asks, RECORDS, tmp_path)
    useful, _ = prepare.read_own_answers(tmp_path, EOS)["harmless"]
    found = [pair.declined for pair in useful]
    assert found == [[*b"No S"], [*b"No S"], []]  # three tokens of "No 0.", then the model's own
    attacked, _ = prepare.read_own_answers(tmp_path, EOS)["attacked"]
    assert [pair.declined for pair in attacked] == [[*b"No S"], []]


def test_refusals_of_harmless_requests_open_like_the_models_own_where_it_learns_those(tmp_path):
    asked = [f"ask {n}" for n in range(3)] + RECORDS.attacked(["ask 0", "ask 2"])
    harm = {f"harm {n}": "No!" if n == 1 else "Sure." for n in range(3)}
    asks = session(answers=dict.fromkeys(asked, "Sure.") | harm, safety_targets="self")
    tune = asks.config.tune.model_copy(update={"metric_requests": 2})
    asks.config = asks.config.model_copy(update={"tune": tune})
    rows = [dataclasses.replace(row, refusal=None) for row in RECORDS.harmful]
    prepare.write_own_answers(asks, dataclasses.replace(RECORDS, harmful=rows), tmp_path)
    useful, _ = prepare.read_own_answers(tmp_path, EOS)["harmless"]
    assert [pair.declined for pair in useful if pair.declined] == [[*b"No!S"]] * 2


def test_a_metric_without_refusals_to_begin_with_is_refused(tmp_path):
    asks = session(answers=dict.fromkeys([f"ask {n}" for n in range(3)], "Sure."))
    changes = {"metric_requests": 3, "attacked_harmless_fraction": 0.0}
    tune = asks.config.tune.model_copy(update=changes)
    asks.config = asks.config.model_copy(update={"tune": tune})
    bare = dataclasses.replace(RECORDS, harmful=[HarmfulRequest("h9", "harm", None, "")])
    with pytest.raises(DataError, match=r"metric_requests=3 needs refusals in data\.harmful"):
        prepare.write_own_answers(asks, bare, tmp_path)
    assert not (tmp_path / "own_answers.jsonl").exists()


def test_rows_are_spread_evenly():
    rows = [str(n) for n in range(10)]
    assert prepare.spread(rows, 3) == ["0", "3", "6"] and prepare.spread(rows, 99) == rows
    assert prepare.spread([], 5) == []


@pytest.mark.parametrize("text", ["{", '{"set": "harmless"}\n', None])
def test_damaged_own_answers_say_what_to_delete(tmp_path, text):
    if text is not None:
        (tmp_path / "own_answers.jsonl").write_text(text)
    with pytest.raises(RunError, match=r"own_answers\.jsonl is damaged .* Delete its folder"):
        prepare.read_own_answers(tmp_path, EOS)


def test_targets_from_the_data():
    asks = session(utility_targets="given")
    assert prepare.utility_pairs(asks, RECORDS, {}) == [
        Pair("ask 1", [*b"Yes 1.", EOS]), Pair("ask 2", [*b"Yes 2.", EOS])
    ]  # fmt: skip
    own = {"harmless": ([], [Pair("ask 2", [9, EOS], declined=[7, 8])])}
    assert [p.declined for p in prepare.utility_pairs(asks, RECORDS, own)] == [[], [7, 8]]
    assert prepare.safety_pairs(asks, RECORDS, {})[1] == Pair("harm 1", [*b"No 1.", EOS])
    bare = dataclasses.replace(RECORDS, harmful=[HarmfulRequest("h9", "harm", None, "")])
    with pytest.raises(DataError, match=r"1 of 1 training rows have no refusal \(first: h9\)"):
        prepare.safety_pairs(asks, bare, {})
    none = dataclasses.replace(RECORDS, harmless=[HarmlessRequest("u9", "ask", None, False)])
    with pytest.raises(DataError, match="no harmless training row has an answer"):
        prepare.utility_pairs(asks, none, {})


# --- prompts and templates -----------------------------------------------------------------------


def test_a_prompt_that_leaves_no_room_is_named_before_any_work():
    longest = len("0 says harm 0")
    prepare.check_prompts(session(longest + 4), {"train": RECORDS})
    with pytest.raises(DataError, match="row t0 around the longest request") as error:
        prepare.check_prompts(session(longest + 3), {"train": RECORDS})
    assert f"has {longest} tokens; with 4 of its answer" in str(error.value)
    with pytest.raises(DataError, match=r"data\.harmful, row h0: the prompt has 6 tokens"):
        prepare.check_prompts(session(9), {"train": RECORDS})


def test_each_attack_type_has_templates_of_its_own():
    mixed = [*TEMPLATES, AttackTemplate("t9", "{request}", ("pretending", "attention shifting"))]
    config = session().config.attribution.model_copy(
        update={"attack_types": ("attention shifting", "pretending")}
    )
    chosen, dropped = choose_templates(mixed, config)
    assert ([t.id for t in chosen], dropped) == (["t3", "t0"], 1)
    two = config.model_copy(update={"examples_per_type": 2})
    with pytest.raises(
        DataError, match="1 training templates are of the type 'attention shifting'"
    ):
        choose_templates(mixed, two)
    any_type = config.model_copy(update={"attack_selection": False})
    untyped = [AttackTemplate(f"n{n}", "{request}", ()) for n in range(3)]
    chosen, dropped = choose_templates(untyped, any_type)
    assert ([t.id for t in chosen], dropped) == (["n0", "n1"], 0)
    with pytest.raises(DataError, match="0 training templates are of the type"):
        choose_templates(untyped, config)
    chosen, dropped = choose_templates(mixed, two.model_copy(update={"attack_selection": False}))
    assert ([t.id for t in chosen], dropped) == (["t3", "t9", "t0", "t2"], 0)


def test_neighbouring_requests_get_different_templates():
    texts = RECORDS.attacked([f"q{n}" for n in range(8)])
    assert len({text.split()[0] for text in texts[:4]}) == 4
    assert all(text.endswith(f"q{n}") for n, text in enumerate(texts))


def test_the_data_hash_hears_of_every_field():
    first = prepare.data_hash({"train": RECORDS})
    assert first == prepare.data_hash({"train": RECORDS})
    other = dataclasses.replace(RECORDS, templates=TEMPLATES[:3])
    hashes = {first, prepare.data_hash({"train": other}), prepare.data_hash({"test": RECORDS})}
    assert len(hashes) == 3


# --- telling checkpoints apart -------------------------------------------------------------------


def test_a_fingerprint_depends_on_content_not_on_place(tmp_path):
    copy = tiny.copy("smollm2", tmp_path / "copy")
    (copy / "README.md").write_text("Words about the model.")
    assert fingerprint(open_checkpoint(str(copy))) == original()


def original() -> str:
    return fingerprint(open_checkpoint(str(tiny.checkpoint("smollm2"))))


def fold(directory):
    """What our own export does: one column of one matrix, somewhere in the middle of the file."""
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][:, 7] *= np.float32(1.5)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})


def template(directory):
    path = directory / "chat_template.jinja"
    path.write_text(path.read_text() + " ")


def norm(directory):
    tiny.edit_json(directory / "config.json", rms_norm_eps=1e-6)


@pytest.mark.parametrize("change", [fold, template, norm])
def test_a_fingerprint_tells_apart(tmp_path, change):
    copy = tiny.copy("smollm2", tmp_path / "copy")
    change(copy)
    assert fingerprint(open_checkpoint(str(copy))) != original()


def test_a_fingerprint_reads_a_little_of_every_tensor(tmp_path):
    """A file too large to be read whole still shows a fold in its first rows."""
    copy = tiny.copy("smollm2", tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    assert (copy / "model.safetensors").stat().st_size > SAMPLE_BYTES
    assert max(weight.nbytes for weight in tensors.values()) <= SAMPLE_BYTES
    found = set()
    for name in tensors:
        changed = {**tensors, name: tensors[name] + 1}
        save_file(changed, copy / "model.safetensors", {"format": "pt"})
        found.add(fingerprint(open_checkpoint(str(copy))))
    assert len(found) == len(tensors)


def test_a_gguf_file_has_a_fingerprint_of_its_tokenizer_too(tmp_path):
    paths = [
        tiny.write_gguf(tiny.checkpoint("smollm2"), tmp_path / f"{n}.gguf", metadata=metadata)
        for n, metadata in enumerate([{}, {}, {"tokenizer.chat_template": "{{ messages }}"}])
    ]
    one, same, other = (fingerprint(open_checkpoint(str(path))) for path in paths)
    assert one == same != other


def test_validation_hears_of_every_block_of_its_split():
    """Lists come in blocks, those that only sound harmful last: the first rows are one kind."""
    harmful = [HarmfulRequest(str(n), f"harm {n}") for n in range(2 * validate.HARMFUL_ROWS)]
    harmless = [HarmlessRequest(str(n), f"ask {n}") for n in range(3 * validate.HARMLESS_ROWS)]
    found = validate.Validation.of(prepare.Records(harmful, harmless, TEMPLATES))
    assert found.asked == [row.request for row in harmful[::2]]
    assert found.harmless == [row.request for row in harmless[::3]]


def test_records_are_read_with_each_question_once(tmp_path, monkeypatch):
    rows = [HarmfulRequest(str(n), "q", "No.", "", "train", f"attack {n}") for n in range(3)]
    monkeypatch.setattr(prepare, "load_harmful", lambda *_: rows)
    monkeypatch.setattr(prepare, "divide", lambda given, part, kind: list(given))
    config = RunConfig.model_validate({"name": "x", "model": {"source": "m"}})
    assert [row.id for row in prepare.read_records(config)["train"].harmful] == ["0"]
