import numpy as np
import pytest

from tta_bench.source.augmentation import Augmentation

NOTHING = {"flip": 0, "affine": 0, "elastic": 0, "brightness": 0, "noise": 0}


@pytest.fixture
def augmentation(make_config):
    def make(legacy=False, **settings) -> Augmentation:
        return Augmentation(make_config(augmentation=NOTHING | settings).training.augmentation, 64, legacy)

    return make


@pytest.fixture
def pair(make_domain):
    domain = make_domain(1)
    return domain.images[0], domain.masks[0]


def agreement(image: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union of the mask's disc with the bright part of the image."""
    bright, disc = image.mean(axis=-1) > 70, mask > 0
    return (bright & disc).sum() / (bright | disc).sum()


@pytest.mark.parametrize("operation", [{"flip": 1}, {"affine": 1}, {"elastic": 1}])
def test_image_and_mask_move_together(augmentation, pair, operation):
    moved_pairs = [augmentation(**operation)(*pair, seed) for seed in range(10)]
    assert all(not np.array_equal(mask, pair[1]) for _, mask in moved_pairs)
    assert min(agreement(image, mask) for image, mask in moved_pairs) > 0.9


def test_legacy_moves_the_image_alone(augmentation, pair):
    image, mask = augmentation(legacy=True, flip=1)(*pair, 0)
    assert np.array_equal(mask, pair[1])
    assert np.array_equal(image, pair[0][::-1, ::-1])
    assert np.array_equal(augmentation(flip=1)(*pair, 0)[0], image)  # the same draws as with aligned masks


def test_operations_draw_independently(augmentation, pair):
    """A shared seed would make both flips coincide always."""
    image = pair[0]
    views = {"none": image, "h": image[:, ::-1], "v": image[::-1], "both": image[::-1, ::-1]}
    make = augmentation(flip=0.5)
    seen = {name for seed in range(40) for name, view in views.items() if np.array_equal(make(*pair, seed)[0], view)}
    assert seen == set(views)


def test_the_seed_alone_decides(augmentation, pair):
    everything = {"flip": 0.5, "affine": 0.5, "elastic": 0.5, "brightness": 0.5, "noise": 0.5}
    first, second = augmentation(**everything), augmentation(**everything)
    second(*pair, 99)  # an image that another worker has had before
    for seed in range(10):
        for a, b in zip(first(*pair, seed), second(*pair, seed), strict=True):
            assert np.array_equal(a, b)
    assert not np.array_equal(first(*pair, 1)[0], first(*pair, 2)[0])


def test_photometric_operations_leave_the_mask_and_the_given_arrays_alone(augmentation, pair):
    before = pair[0].copy(), pair[1].copy()
    image, mask = augmentation(brightness=1, noise=1, noise_range=[3, 5])(*pair, 0)
    assert np.array_equal(mask, pair[1])
    assert not np.array_equal(image, pair[0])
    assert image.dtype == mask.dtype == np.uint8
    assert all(np.array_equal(a, b) for a, b in zip(before, pair, strict=True))


def test_brightness_stays_in_its_range_per_channel(augmentation):
    grey = np.full((64, 64, 3), 100, dtype=np.uint8)
    make = augmentation(brightness=1)
    values = np.stack([make(grey, grey[..., 0], seed)[0][0, 0] for seed in range(200)])
    assert values.min() >= 70
    assert values.max() <= 150
    assert values.min() < 75
    assert values.max() > 145
    assert (values[:, 0] != values[:, 1]).any()


def test_masks_keep_their_values(augmentation, pair):
    make = augmentation(affine=1, elastic=1)
    assert all(set(np.unique(make(*pair, seed)[1])) <= {0, 1, 2} for seed in range(10))
