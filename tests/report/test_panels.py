"""What the figures draw, read back from matplotlib's axes."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from nt_jax.config.test_sets import Labels, labels_of
from nt_jax.eval.metrics.result import ResultRow
from nt_jax.report import figures, neuron_panels, panels

ROWS = [
    ResultRow("demo_attack", "refusal_rate", "base", 0.1, 10, 0.02, 0.4),
    ResultRow("demo_attack", "refusal_rate", "tuned", 0.9, 10, 0.6, 0.98),
    ResultRow("demo_attack", "entropy", "base", 4.0, 10, 3.5, 4.5),
    ResultRow("demo_attack", "entropy", "tuned", 5.0, 10, 4.5, 5.5),
]
NEURONS = {"layer": [0, 3, 3], "set": ["safety"] * 3, "score": [1.0, 2.0, 4.0], "num_layers": 5}


def drawn(panel):
    axes = Figure().subplots()
    panel.draw(axes)
    return axes


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_bars_are_as_long_as_the_rates_with_their_intervals():
    refused, informative = panels.bars(ROWS, {"demo_attack": True}, labels_of({}))
    axes = drawn(refused)
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([10.0, 90.0])
    assert texts(axes) == ["unseen attacks (high is good)", "10 %", "90 %"]
    ends = [line.get_xdata().tolist() for line in axes.lines]
    found = sorted({x for end in ends for x in end})
    assert found == pytest.approx([2.0, 10.0, 40.0, 60.0, 90.0, 98.0])
    assert [bar.get_width() for bar in drawn(informative).patches] == pytest.approx([4.0, 5.0])
    assert panels.bars([], {}, labels_of({})) == []


def test_many_models_under_long_names_fit_their_panel():
    names = [f"a/long/path/{'without-end' * 9}/{number}" for number in range(7)]
    rows = [ResultRow("d" * 99, "refusal_rate", name, 0.5, 9, 0.2, 0.8) for name in names]
    panel = panels.bars(rows, {}, labels_of({}))[0]
    figure = Figure(figsize=(figures.WIDTH, panel.height), layout="constrained")
    axes = figure.subplots()
    panel.draw(axes)
    figure.draw_without_rendering()
    legend = axes.get_legend()
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0
    assert len({text.get_text() for text in legend.get_texts()}) == 7
    (label, *_), wide = axes.texts, figure.bbox.x1
    assert label.get_window_extent().x1 <= wide and label.get_text() != "d" * 99


def test_layers_have_whole_ticks_and_their_counts():
    counted, scored = neuron_panels.layers(NEURONS)
    axes = drawn(counted)
    assert [bar.get_height() for bar in axes.patches] == [1, 0, 0, 2, 0]
    assert "most in layer 3" in counted.shows
    (line,) = drawn(scored).lines
    assert line.get_xydata().tolist() == [[0, 1.0], [3, 3.0]]
    for panel in (counted, scored):
        axes = drawn(panel)
        axes.figure.draw_without_rendering()
        assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_the_histogram_counts_every_factor():
    factors = np.r_[np.full(30, 1.2), np.full(20, 0.8), 1.0]
    kinds = ["safety"] * 30 + ["utility"] * 21
    (panel,) = neuron_panels.factors({"factor": factors, "set": kinds})
    axes = drawn(panel)
    heights = [np.diff(patch.get_xy()[:, 1]).clip(0).sum() for patch in axes.patches]
    assert sorted(heights) == [21, 30]
    _, labels = axes.get_legend_handles_labels()
    assert labels == ["safety: median 1.20", "utility: median 0.80"]
    assert neuron_panels.factors(NEURONS) == []


def test_marks_of_a_level_curve_lie_below_the_top():
    """Matplotlib leaves room for a share of the range, which is next to nothing here."""
    neurons = NEURONS | {"score": [1.0, 1.001, 1.0]}
    level = [{"epoch": n, "safety_loss": 3.0} for n in (1, 2)]
    for panel, most in ((neuron_panels.layers(neurons)[1], 1.001), (panels.curves(level)[0], 3)):
        low, high = drawn(panel).get_ylim()
        assert low == 0 and 1.04 * most < high < 1.1 * most
    assert drawn(neuron_panels.layers(NEURONS | {"score": [0, 0, 0]})[1]).get_ylim() == (0, 1)


@pytest.mark.parametrize(("count", "scale"), [(3, "linear"), (500, "log")])
def test_a_histogram_has_plain_numbers_beside_it(count, scale):
    factors = np.r_[np.full(count, 1.2), 0.8]
    (panel,) = neuron_panels.factors({"factor": factors, "set": ["safety"] * len(factors)})
    axes = drawn(panel)
    axes.figure.draw_without_rendering()
    named = [tick.get_text() for tick in axes.get_yticklabels() if tick.get_text()]
    assert axes.get_yscale() == scale and named
    assert all(re.fullmatch(r"[\d,.]+", name) for name in named), named


def test_the_strength_curve_begins_at_the_untuned_model_and_names_what_was_kept():
    tried = [
        {"strength": 0.8, "refusal_attack": 0.7},
        {"strength": 0.4, "refusal_attack": 0.5, "kept": True},
    ]
    (panel,) = panels.strengths(tried, {"refusal_attack": 0.1})
    curve, kept = drawn(panel).lines
    assert curve.get_xydata() == pytest.approx(np.array([[0, 10], [0.4, 50], [0.8, 70]]))
    assert list(kept.get_xdata()) == [0.4, 0.4]
    assert panels.strengths([], {"refusal_attack": 0.1}) == []


NESTED = {"lift_nested": -0.8, "refusal_nested_harmless": 0.25}


def test_lifts_are_drawn_in_order_without_the_untuned_model():
    tried = [
        {"lift": 0.6, "lift_attacked": 0.3, "refusal_attack": 0.7, "kept": True, **NESTED},
        {"lift": -0.5, "lift_attacked": 0.9, "refusal_attack": 0.8, "refusal_direct": 0.2},
    ]
    bare, attacked, nested = panels.lifts(tried)
    curve, kept = drawn(bare).lines
    assert curve.get_xydata() == pytest.approx(np.array([[-0.5, 20]]))
    assert list(kept.get_xdata()) == [0.6, 0.6]
    curve, kept = drawn(attacked).lines
    assert curve.get_xydata() == pytest.approx(np.array([[0.3, 70], [0.9, 80]]))
    assert list(kept.get_xdata()) == [0.3, 0.3]
    curve, kept = drawn(nested).lines  # the other row is of an earlier version
    assert curve.get_xydata() == pytest.approx(np.array([[-0.8, 25]]))
    assert list(kept.get_xdata()) == [-0.8, -0.8]
    assert panels.lifts([]) == []


def test_tuning_curves_need_something_to_draw():
    history = [
        {"epoch": 1, "safety_loss": 3.0, "validation_su_f1": 0.6},
        {"epoch": 2, "safety_loss": 1.0, "validation_su_f1": 0.7, "best": True},
    ]
    loss, validation = panels.curves(history)
    assert [line.get_label() for line in drawn(loss).lines] == ["safety loss", "kept"]
    assert drawn(validation).lines[0].get_ydata().tolist() == [0.6, 0.7]
    assert panels.curves([]) == []
    assert panels.curves([{"epoch": 1, "seconds": 2.0}]) == []
    assert panels.curves([{"epoch": 1, "safety_loss": float("nan")}]) == []
    assert panels.curves([{"epoch": 0, "refusal_attack": 0.1}]) == []  # one look is no curve


def test_cumulative_says_where_the_choice_ends():
    share = {"safety": np.array([0.5, 0.8, 1.0]), "utility": np.array([0.6, 0.9, 1.0])}
    chosen = {"safety": 2, "utility": 0}, {"safety": 0.3, "utility": 0.0}  # not the best two
    axes = drawn(neuron_panels.cumulative(share, *chosen))
    said = [line.get_label() for line in axes.lines if not line.get_label().startswith("_")]
    assert said == ["safety: 2 chosen hold 30%", "utility: 0 chosen hold 0%"]
    assert [line.get_xydata().tolist() for line in axes.lines if len(line.get_xdata()) == 1] == [
        [[2, 0.3]]
    ]


def test_no_legend_covers_a_curve():
    every = [
        *panels.bars(ROWS, {}, labels_of({})),
        *panels.curves([{"epoch": n, "a_loss": 3.0 - n, "b_loss": 1.0 * n} for n in range(3)]),
        *panels.strengths([{"strength": 1.0, "refusal_attack": 0.7}], {"refusal_attack": 0.1}),
        *panels.lifts(
            [
                {"lift": nats, "lift_attacked": nats, "refusal_attack": 0.7, "refusal_direct": 0.8}
                for nats in (0.3, 0.6)
            ]
        ),
        neuron_panels.cumulative({"safety": np.array([0.5, 1.0])}, {"safety": 1}, {"safety": 0.5}),
    ]
    for panel in every:
        figure = Figure(figsize=(figures.WIDTH, panel.height), layout="constrained")
        axes = figure.subplots()
        panel.draw(axes)
        figure.draw_without_rendering()
        legend = axes.get_legend().get_window_extent()
        assert legend.y1 < axes.get_window_extent().y0, panel.shows
        assert legend.y0 >= 0, panel.shows


def test_svg_is_the_same_bytes_again_and_says_what_it_shows():
    panel = figures.Panel('a "b" & <c>', 2.0, neuron_panels.layers(NEURONS)[0].draw)
    first = figures.panel_svg(panel, "one")
    assert first == figures.panel_svg(panel, "one")
    assert 'aria-label="a &quot;b&quot; &amp; &lt;c>"' in first
    other = figures.panel_svg(panel, "two")
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (first, other)]
    assert ids[0] and not ids[0] & ids[1]


def test_panels_side_by_side_are_one_png():
    image = figures.panels_png(neuron_panels.layers(NEURONS) + neuron_panels.layers(NEURONS)[:1])
    assert image.startswith(b"\x89PNG")
    width, height = (int.from_bytes(image[place : place + 4], "big") for place in (16, 20))
    assert (width, height) == (2 * 4.8 * figures.DPI, 2 * 2.4 * figures.DPI)


def test_labels_are_no_formulas():
    named = Labels({"demo_attack": r"a $\foo$ b"})
    (panel, _) = panels.bars(ROWS, {"demo_attack": True}, named)
    assert figures.panels_png([panel]) and r"$\foo$" in figures.panel_svg(panel, "a")
