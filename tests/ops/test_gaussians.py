"""Gaussians of features and distances to them, against plain loops and numbers that are known."""

import numpy as np
import pytest
import torch

from tta_bench.errors import UserError
from tta_bench.ops.gaussians import LEAST_SHRINKAGE, Gaussian, fit, mahalanobis, shrunk_covariance
from tta_bench.ops.transfer import backward_transfer, forward_transfer


def draw(count, size, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=torch.Generator().manual_seed(99))
    return torch.randn(count, size, generator=generator) @ mixing + shift


def plain_ledoit_wolf(centred):
    """Image by image, as the paper writes it."""
    count, size = centred.shape
    sample = sum(np.outer(row, row) for row in centred) / count
    target = np.trace(sample) / size * np.eye(size)
    noise = sum(((np.outer(row, row) - sample) ** 2).sum() for row in centred) / count**2
    share = min(1, max(LEAST_SHRINKAGE, noise / ((sample - target) ** 2).sum()))
    return share * target + (1 - share) * sample


@pytest.mark.parametrize(("count", "size"), [(2, 5), (20, 64), (200, 8), (7, 1)])
def test_covariance_is_that_of_ledoit_and_wolf_and_has_an_inverse(count, size):
    centred = draw(count, size).double()
    centred -= centred.mean(0)
    found = shrunk_covariance(centred)
    if size > 1:
        assert np.allclose(found, plain_ledoit_wolf(centred.numpy()), rtol=1e-9)
    assert torch.linalg.eigvalsh(found).min() > 0


def test_distances_are_those_of_the_definition_and_do_not_depend_on_the_scale_of_a_feature():
    features, others = draw(50, 6), draw(30, 6, seed=1, shift=2.0)
    gaussian = fit(features)
    offset = others[3].double() - features.double().mean(0)
    scale = features.double().std(0, correction=0)
    covariance = shrunk_covariance((features.double() - features.double().mean(0)) / scale) * scale[:, None] * scale
    expected = offset @ torch.linalg.solve(covariance, offset)
    assert mahalanobis(others, gaussian)[3] == pytest.approx(float(expected), rel=1e-9)
    layer = torch.tensor([1e-3, 1.0, -2.0, 30.0, 0.5, 7.0]).double()
    moved = mahalanobis(others.double() * layer + 5, fit(features.double() * layer + 5))
    assert torch.allclose(moved, mahalanobis(others, gaussian), rtol=1e-6)
    own = mahalanobis(features, gaussian)
    assert gaussian.typical == pytest.approx(tuple(map(float, (own.min(), own.mean(), own.max()))))


def test_unseen_images_of_a_centre_are_about_as_near_as_its_own_and_others_are_far():
    own, unseen = draw(200, 64), draw(200, 64, seed=1)
    others = draw(200, 64, seed=2, shift=8.0)
    gaussian = fit(own)
    near, far = mahalanobis(unseen, gaussian).mean(), mahalanobis(others, gaussian).mean()
    assert float(near) == pytest.approx(gaussian.typical[1], rel=0.7)
    assert far > 1.5 * near


def test_threshold_is_twice_the_mean_above_the_least():
    empty = torch.zeros(0)
    assert Gaussian(empty, empty, (34.1, 63.0, 95.2)).threshold == pytest.approx(91.9)
    assert Gaussian(empty, empty, (0.0, 9.0, 8.0)).threshold == 16


def test_features_that_say_nothing_change_no_distance():
    features, others = draw(40, 3), draw(10, 3, seed=1)
    constant = torch.full((40, 1), 0.1)
    with_constant = fit(torch.cat([features, constant], 1))
    distance = mahalanobis(torch.cat([others, constant[:10]], 1), with_constant)
    assert torch.isfinite(distance).all()
    assert distance.argsort().tolist() == mahalanobis(others, fit(features)).argsort().tolist()
    alike = fit(torch.ones(3, 2))
    assert mahalanobis(torch.tensor([[1.0, 3.0]]), alike).tolist() == [4]
    with pytest.raises(UserError, match="at least 2 images"):
        fit(features[:1])


def test_transfer_of_a_matrix_made_by_hand():
    matrix = torch.tensor([[80.0, 50.0, 20.0], [70.0, 85.0, 40.0], [60.0, 82.0, 90.0]])
    assert backward_transfer(matrix) == pytest.approx((60 - 80 + 82 - 85) / 2)
    assert forward_transfer(matrix) == pytest.approx((85 - 50 + 90 - 40) / 2)
