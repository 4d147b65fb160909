"""Calibration methods: each against an independent computation on all values at once, and ONNX Runtime's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnxruntime.quantization.calibrate import HistogramCollector
from scipy.stats import entropy

from exporters import METHODS
from exporters.base import ExportError, Observer
from exporters.ranges.entropy import LEVELS, Entropy, best_length, divergence
from exporters.ranges.histogram import BINS, Histogram
from exporters.ranges.mean_squared_error import SHRINK, MeanSquaredError
from exporters.ranges.minmax import MinMax
from exporters.ranges.moving_average import MovingAverage
from exporters.ranges.percentile import Percentile
from harness.calibrate import observer_factory
from harness.errors import HarnessError

Values = npt.NDArray[np.float32]

FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
BATCHES = st.lists(hnp.arrays(np.float32, st.integers(1, 30), elements=FLOATS), min_size=1, max_size=6)


def of(observer: Observer, *batches: Values) -> tuple[float, float]:
    for batch in batches:
        observer.observe(batch)
    return observer.range()


def normal(count: int = 50_000, seed: int = 0) -> Values:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def rectified(count: int = 50_000, seed: int = 0) -> Values:
    return np.maximum(normal(count, seed), 0)


def heavy_tailed(count: int = 50_000, seed: int = 0) -> Values:
    return np.random.default_rng(seed).standard_t(2, count).astype(np.float32)


def histogram_of(batches: Sequence[Values]) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


@given(BATCHES, st.randoms())
@settings(max_examples=200, deadline=None)
def test_histogram_depends_on_the_values_alone(batches: list[Values], random: object) -> None:
    once = histogram_of([np.concatenate(batches)])
    shuffled = list(batches)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for other in (histogram_of(batches), histogram_of(shuffled)):
        assert np.array_equal(other.counts, once.counts)
        assert (other.width, other.lowest, other.highest) == (once.width, once.lowest, once.highest)


@given(BATCHES)
@settings(max_examples=200, deadline=None)
def test_every_value_is_in_the_bin_of_its_magnitude(batches: list[Values]) -> None:
    values = np.concatenate(batches).astype(np.float64)
    histogram = histogram_of(batches)
    wanted = np.zeros((2, BINS), np.int64)
    for value in values:
        wanted[int(value < 0), int(abs(value) // histogram.width)] += 1
    assert np.array_equal(histogram.counts, wanted)
    largest = np.abs(values).max()
    assert largest < 2.0**-114 or BINS // 2 * histogram.width <= largest < BINS * histogram.width


def test_more_values_than_float32_can_count() -> None:
    histogram = histogram_of([np.ones((1 << 24) + 5, np.float32)])
    assert histogram.counts.sum() == (1 << 24) + 5


@pytest.mark.parametrize("draw", [normal, rectified, heavy_tailed])
@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9, 100.0])
def test_percentile_cuts_the_share_of_all_values(draw: Callable[[], Values], percent: float) -> None:
    values = draw()
    low, high = of(Percentile(percent), *np.array_split(values, 7))
    width = histogram_of([values]).width
    cut = round((100 - percent) / 200 * values.size)
    wanted = np.sort(values)[[cut, -1 - cut]]
    assert [low, high] == pytest.approx(wanted, abs=1.01 * width)


@pytest.mark.parametrize("draw", [normal, rectified])
def test_percentile_agrees_with_onnx_runtimes(draw: Callable[[], Values]) -> None:
    values = draw()
    collector = HistogramCollector("percentile", False, 8192, 128, 99.897, "same")
    collector.collect_value({"x": values})
    low, high = collector.compute_percentile()["x"][:2]
    ours = of(Percentile(99.897), values)
    assert ours == pytest.approx((float(low), float(high)), abs=2 * histogram_of([values]).width)


def test_moving_average_is_the_recursion() -> None:
    low, high = -1.0, 2.0
    batches = [normal(100, seed) for seed in range(5)]
    wanted = [float(batches[0].min()), float(batches[0].max())]
    for batch in batches[1:]:
        wanted[0] = 0.9 * wanted[0] + 0.1 * float(batch.min())
        wanted[1] = 0.9 * wanted[1] + 0.1 * float(batch.max())
    assert of(MovingAverage(0.1), *batches) == pytest.approx(wanted)
    assert of(MovingAverage(1.0), np.float32([low, high]), np.float32([-5, 7])) == (-5, 7)


def divergence_by_the_book(counts: npt.NDArray[np.int64], length: int) -> float:
    """Migacz's pseudo-code, slide 40: clip, merge into levels, expand, compare."""
    reference = counts[:length].astype(float)
    reference[np.flatnonzero(reference)[-1]] += counts[length:].sum()
    expanded = np.zeros(length)
    for level in range(LEVELS):
        start, end = level * length // LEVELS, (level + 1) * length // LEVELS
        inside = counts[start:end]
        if (inside > 0).any():
            expanded[start:end][inside > 0] = inside.sum() / (inside > 0).sum()
    return float(entropy(reference, expanded)) if expanded.any() else np.inf


@pytest.mark.parametrize("draw", [normal, rectified, heavy_tailed])
@pytest.mark.parametrize("length", [LEVELS, 200, 777, 1500])
def test_divergence_is_that_of_the_book(draw: Callable[[], Values], length: int) -> None:
    counts = histogram_of([draw()]).counts.sum(axis=0).reshape(-1, 2).sum(axis=1)
    assert divergence(counts, length) == pytest.approx(divergence_by_the_book(counts, length), rel=1e-9)


def test_best_length_is_the_smallest_divergence() -> None:
    counts = histogram_of([heavy_tailed(5_000)]).counts.sum(axis=0).reshape(-1, 2).sum(axis=1)
    counts[0] = counts[1]
    occupied = int(np.flatnonzero(counts)[-1]) + 1
    by_the_book = [divergence_by_the_book(counts[:occupied], length) for length in range(LEVELS, occupied + 1)]
    assert best_length(counts) == LEVELS + int(np.argmin(by_the_book))


def test_entropy_agrees_with_onnx_runtimes_on_heavy_tails() -> None:
    """ONNX Runtime truncates expanded levels to whole numbers and smooths; both cut the tail, within a factor of 2."""
    values = heavy_tailed(200_000)
    collector = HistogramCollector("entropy", False, 2047, 255, 99.9, "same")
    collector.collect_value({"x": values})
    low, high = collector.compute_entropy()["x"][:2]
    ours = of(Entropy(), values)
    largest = float(np.abs(values).max())
    assert float(high) < 0.5 * largest
    assert ours[1] < 0.5 * largest
    assert 0.5 < ours[1] / float(high) < 2
    assert 0.5 < ours[0] / float(low) < 2


def quantisation_error(values: Values, low: float, high: float) -> float:
    """Mean squared error of fake quantisation to 256 levels, on the values themselves."""
    scale = (high - low) / 255
    zero = round(-low / scale)
    wanted = values.astype(np.float64)
    levels = np.clip(np.rint(wanted / scale) + zero, 0, 255)
    return float(np.mean(((levels - zero) * scale - wanted) ** 2))


@pytest.mark.parametrize("draw", [normal, rectified, heavy_tailed])
def test_mean_squared_error_is_the_smallest_of_the_grid(draw: Callable[[], Values]) -> None:
    values = draw()
    low, high = of(MeanSquaredError(), *np.array_split(values, 5))
    whole = float(values.min()), float(values.max())
    errors = {float(by): quantisation_error(values, min(whole[0] * by, 0), whole[1] * by) for by in SHRINK}
    # Bins are finer than steps by 16 and more, so the choice may be beside the best by a hair of its error.
    assert quantisation_error(values, min(low, 0), high) <= 1.01 * min(errors.values())


def test_clipping_methods_cut_one_outlier_and_minmax_keeps_it() -> None:
    values = np.append(normal(), np.float32(1000.0))
    assert of(MinMax(), values)[1] == 1000.0
    for observer in (Percentile(99.9), Entropy()):
        assert of(observer, values)[1] < 500.0


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    """What holds for every row of the table."""

    def test_range_lies_within_what_was_seen(self, method: str) -> None:
        for draw in (normal, rectified, heavy_tailed):
            values = draw()
            low, high = of(observer_factory(method)(), *np.array_split(values, 9))
            assert values.min() <= low <= high <= values.max()

    def test_zeros_alone_have_the_range_of_zero(self, method: str) -> None:
        assert of(observer_factory(method)(), np.zeros(7, np.float32)) == (0.0, 0.0)

    def test_one_value_is_kept(self, method: str) -> None:
        low, high = of(observer_factory(method)(), np.full(9, 3.0, np.float32))
        assert low <= high == pytest.approx(3.0, rel=0.01)

    def test_observers_do_not_share(self, method: str) -> None:
        make = observer_factory(method)
        first, second = make(), make()
        first.observe(np.float32([100.0]))
        assert of(second, np.float32([1.0])) == of(make(), np.float32([1.0]))

    def test_input_is_not_changed(self, method: str) -> None:
        values = heavy_tailed(1000)
        kept = values.copy()
        of(observer_factory(method)(), values)
        assert np.array_equal(values, kept)


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        ("entropie", HarnessError, "no calibration method 'entropie'; did you mean 'entropy'"),
        ("percentile:much", HarnessError, "'percentile' cannot take 'much'"),
        ("minmax:3", HarnessError, "'minmax' takes no number"),
        ("percentile:0.999", ExportError, "above 50, at most 100; got 0.999"),
        ("percentile:101", ExportError, "above 50, at most 100; got 101"),
        ("moving-average:0", ExportError, "above 0, at most 1; got 0"),
    ],
)
def test_wrong_methods_are_refused(method: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        observer_factory(method)


def test_a_parameter_arrives() -> None:
    values = normal()
    assert of(observer_factory("percentile:90")(), values) == of(Percentile(90.0), values)
