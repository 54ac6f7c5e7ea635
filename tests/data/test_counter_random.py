"""The counter-based generator: the authors' known answers, purity, and the distributions made from it."""

import numpy as np
import pytest

from minires.data.counter_random import Draws, permutation, philox4x32
from minires.errors import ArgumentError

# kat_vectors of the authors' Random123 library, philox4x32 with 10 rounds: (counter, key, answer).
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, answer):
    words = philox4x32(tuple(np.array([c], np.uint64) for c in counter), key)
    assert tuple(int(w) for w in words[0]) == answer


def test_draws_depend_on_the_sample_alone():
    together = Draws(7, 3, [5, 9, 2, 9]).stream("flip").uniform(6)
    for place, index in enumerate([5, 9, 2, 9]):
        assert np.array_equal(Draws(7, 3, [index]).stream("flip").uniform(6)[0], together[place])


def test_draws_prefix_does_not_depend_on_the_count():
    assert np.array_equal(Draws(1, 2, [3]).uniform(9)[:, :5], Draws(1, 2, [3]).uniform(5))


def test_draws_where_keeps_each_samples_numbers():
    draws, mask = Draws(0, 0, [4, 5, 6]), np.array([True, False, True])
    assert np.array_equal(draws.where(mask).words(4), draws.words(4)[mask])


@pytest.mark.parametrize(
    "other",
    [
        Draws(1, 0, range(4096), "s"),
        Draws(2**32, 0, range(4096), "s"),  # the key's second word
        Draws(0, 1, range(4096), "s"),
        Draws(0, 0, range(4096), "t"),
        Draws(0, 0, range(1, 4097), "s"),
    ],
    ids=["seed", "seed's high word", "epoch", "stream", "index"],
)
def test_draws_every_coordinate_gives_other_numbers(other):
    here = Draws(0, 0, range(4096), "s").uniform()[:, 0]
    there = other.uniform()[:, 0]
    assert not (here == there).any()
    assert abs(np.corrcoef(here, there)[0, 1]) < 5 / np.sqrt(4096)  # five standard deviations


def test_uniform_is_uniform_and_open():
    u = Draws(0, 0, range(10_000)).uniform(10, 2.0, 5.0)
    assert u.min() > 2.0 and u.max() < 5.0
    counts = np.histogram(u, bins=100, range=(2.0, 5.0))[0]
    assert _chi_square(counts) < 99 + 5 * np.sqrt(2 * 99)


def test_integers_are_uniform_over_the_half_open_range():
    values = Draws(0, 0, range(9_000)).integers(-3, 6, 10)
    counts = np.bincount((values + 3).reshape(-1), minlength=9)
    assert len(counts) == 9
    assert _chi_square(counts) < 8 + 5 * np.sqrt(2 * 8)


def test_bernoulli_frequency_and_limits():
    draws = Draws(0, 0, range(40_000))
    assert abs(draws.bernoulli(0.3).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 40_000)
    assert not draws.bernoulli(0.0).any() and draws.bernoulli(1.0).all()


def test_normal_moments():
    z = Draws(0, 0, range(40_000)).normal(1)[:, 0]
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / z.size)  # var(z^4) = 105 - 9


@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_gamma_moments(alpha):
    """E G = Var G = alpha, E (G - alpha)^3 = 2 alpha: without the right rejection the variance is 5 % too large."""
    g = np.exp(Draws(0, 0, range(200_000))._log_gamma(alpha, tries=5)) - alpha
    for power, moment in ((1, 0.0), (2, alpha), (3, 2 * alpha)):
        assert abs((g**power).mean() - moment) < 5 * (g**power).std() / np.sqrt(g.size)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 1.0, 3.0])
def test_beta_moments(alpha):
    b = Draws(0, 0, range(40_000)).beta(alpha)
    variance = 1 / (4 * (2 * alpha + 1))
    assert ((b >= 0) & (b <= 1)).all()
    assert abs(b.mean() - 0.5) < 5 * np.sqrt(variance / b.size)
    assert abs(b.var() - variance) < 5 * np.sqrt(
        1 / 64 / b.size
    )  # (b - 1/2)^2 lies in 0 .. 1/4: its variance is at most 1/64


def test_beta_of_one_is_uniform():
    counts = np.histogram(Draws(3, 0, range(50_000)).beta(1.0), bins=50, range=(0, 1))[0]
    assert _chi_square(counts) < 49 + 5 * np.sqrt(2 * 49)


def test_beta_of_a_tiny_alpha_is_finite():
    b = Draws(0, 0, range(2_000)).beta(1e-3)
    assert np.isfinite(b).all()
    assert 0.4 < (b > 0.5).mean() < 0.6


def test_permutation_holds_every_index_once_and_changes_with_seed_and_epoch():
    first = permutation(0, 0, 1000)
    assert np.array_equal(np.sort(first), np.arange(1000))
    assert np.array_equal(first, permutation(0, 0, 1000))
    for other in (permutation(0, 1, 1000), permutation(1, 0, 1000), permutation(0, 0, 1000, "split")):
        assert (first == other).mean() < 0.05
    assert permutation(0, 0, 0).shape == (0,)


def test_permutation_places_are_uniform():
    places = np.array([np.flatnonzero(permutation(seed, 0, 8) == 3)[0] for seed in range(1600)])
    assert _chi_square(np.bincount(places, minlength=8)) < 7 + 5 * np.sqrt(2 * 7)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Draws(-1, 0, [0]), r"Draws: seed must be an integer in 0 \.\. 18446744073709551615, got -1"),
        (lambda: Draws(0, 2**32, [0]), r"Draws: epoch must be an integer in 0 \.\. 4294967295, got 4294967296"),
        (lambda: Draws(0, 0.5, [0]), "epoch must be an integer"),
        (lambda: Draws(True, 0, [0]), "seed must be an integer"),
        (lambda: Draws(0, 0, [-1]), "indices must be in"),
        (lambda: Draws(0, 0, [2**32]), "indices must be in"),
        (lambda: Draws(0, 0, [0]).integers(3, 3), "high - low must be in 1"),
        (lambda: Draws(0, 0, [0]).beta(0.0), "alpha must be positive, got 0.0"),
    ],
)
def test_draws_errors(make, text):
    with pytest.raises(ArgumentError, match=text):
        make()


def _chi_square(counts):
    expected = counts.sum() / len(counts)
    return ((counts - expected) ** 2 / expected).sum()
