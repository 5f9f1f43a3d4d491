import pytest
import torch

from lutc.errors import LutcError
from lutc.taylor.cluster import fill_empty, find_centres, nearest
from lutc.taylor.online import OnlineKMeans, plus_plus


def blobs(k, n, d=6, spread=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(k, d, generator=generator)
    owner = torch.randint(k, (n,), generator=generator)
    return centres + 0, centres[owner] + spread * torch.randn(n, d, generator=generator), owner


def matched(found, true):
    """Largest distance of a true centre to the nearest found one."""
    return float(torch.cdist(true, found).min(1).values.max())


def test_nearest_is_brute_force():
    torch.manual_seed(0)
    x, c = torch.randn(500, 7), torch.randn(13, 7)
    brute = torch.stack([(row - c).square().sum(1).argmin() for row in x])
    assert torch.equal(nearest(x, c), brute)


def test_centres_of_separable_data():
    true, x, _ = blobs(8, 4000)
    assert matched(find_centres(x, 8), true) < 0.02


def test_one_centre_is_the_mean():
    _, x, _ = blobs(3, 100)
    torch.testing.assert_close(find_centres(x, 1), x.mean(0, keepdim=True))


def test_empty_clusters_are_filled():
    _, x, _ = blobs(3, 300)
    centres = torch.cat([x[:2], torch.full((3, 6), 1e3)])
    filled = fill_empty(x, centres)
    assert torch.bincount(nearest(x, filled), minlength=5).min() >= 1


def test_errors():
    x = torch.randn(5, 3)
    with pytest.raises(LutcError, match="k = 6 centres need at least 6 samples, but there are 5"):
        find_centres(x, 6)
    with pytest.raises(LutcError, match="only 1 distinct"):
        find_centres(torch.ones(9, 3), 2)
    with pytest.raises(LutcError, match="1 of 5 samples are NaN"):
        find_centres(x.index_fill(0, torch.tensor([2]), torch.nan), 2)
    with pytest.raises(LutcError, match="k >= 1"):
        find_centres(x, 0)


def test_plus_plus_draws_distinct_samples():
    true, x, _ = blobs(6, 600)
    seeds = plus_plus(x, 6, torch.Generator().manual_seed(1))
    assert (
        matched(seeds, true) < 1
    )  # one seed in each blob: blobs lie about 7 apart, k-means++ rarely misses one at this spread
    assert len(plus_plus(torch.ones(4, 2), 3)) == 1


def test_online_agrees_with_batch_on_separable_data():
    true, x, _ = blobs(10, 40_000)
    online = OnlineKMeans(10, seed=3)
    for chunk in x.split(777):
        online.partial_fit(chunk)
    batch = find_centres(x, 10)
    assert online.seen == 40_000
    assert matched(online.centres, true) < 0.02
    assert matched(online.centres, batch) < 0.02
    assert torch.equal(batch[nearest(x, batch)].argmax(1), online.centres[online.assign(x)].argmax(1))


def test_online_follows_a_stream_that_moves():
    """Half-way all blobs move elsewhere: the least active centres are replaced."""
    first, x, _ = blobs(5, 5000, seed=0)
    second, y, _ = blobs(5, 30_000, seed=9)
    online = OnlineKMeans(5, threshold=1.0, half_life=1000, seed=0)
    online.partial_fit(x)
    assert matched(online.centres, first) < 0.05
    online.partial_fit(y)
    assert matched(online.centres, second) < 0.1
    assert online.replaced >= 5


def test_online_founds_up_to_k_and_no_more():
    online = OnlineKMeans(4, threshold=0.5, probability=0.0)
    online.partial_fit(torch.zeros(100, 3))
    assert len(online.centres) == 1
    for place in range(1, 8):
        online.partial_fit(torch.full((50, 3), 10.0 * place))
    assert len(online.centres) == 4
    assert online.replaced == 0


def test_online_centre_is_the_average_of_its_samples():
    x = torch.randn(5000, 4, generator=torch.Generator().manual_seed(0))
    online = OnlineKMeans(1, threshold=1e9, least_rate=1e-9)
    online.partial_fit(x)
    # The seed is a sample that counts once more among 5000.
    torch.testing.assert_close(online.centres[0], x.mean(0), rtol=0, atol=2e-3)


def test_online_errors():
    with pytest.raises(LutcError, match="k >= 1"):
        OnlineKMeans(0)
    with pytest.raises(LutcError, match="no samples"):
        OnlineKMeans(2).centres  # noqa: B018
    online = OnlineKMeans(2).partial_fit(torch.randn(100, 3))
    with pytest.raises(LutcError, match="4 wide, earlier ones 3"):
        online.partial_fit(torch.randn(5, 4))
    with pytest.raises(LutcError, match="finite"):
        online.partial_fit(torch.full((5, 3), torch.inf))


def test_what_several_processes_learned_is_merged():
    """Each sees a share of the same twelve Gaussians; one half of them only the first process."""
    generator = torch.Generator().manual_seed(0)
    places = 10 * torch.randn(12, 8, generator=generator)
    parts = []
    for last in (12, 6):
        means = OnlineKMeans(12)
        which = torch.randint(last, (4000,), generator=generator)
        means.partial_fit(places[which] + 0.1 * torch.randn(4000, 8, generator=generator))
        parts.append(means)
    merged = OnlineKMeans.merged(parts)
    assert merged.seen == 8000 and merged.centres.shape == (12, 8)
    assert torch.cdist(places, merged.centres).amin(1).max() < 0.5
    torch.testing.assert_close(merged.activity.sum(), sum(part.activity.sum() for part in parts))
    merged.partial_fit(places)  # and it goes on learning
    assert OnlineKMeans(3).across_ranks().k == 3
