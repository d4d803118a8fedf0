import numpy as np
import pytest
import torch

from strong import drawn_views
from tta_bench.errors import UserError
from tta_bench.methods.options import default_options
from tta_bench.models.build import preprocessing_of
from tta_bench.ops.preprocessing import PAPER, Preprocessing, between_percentiles, min_max
from tta_bench.runtime.sections import PreprocessingConfig
from tta_bench.schema import validate_section


@pytest.fixture
def greys():
    return torch.randint(20, 230, (2, 3, 64, 64), generator=torch.Generator().manual_seed(3)).float()


@pytest.mark.parametrize("ends", [(0.0, 100.0), (1.0, 99.0), (0.5, 50.0), (33.3, 66.6)])
def test_percentiles_are_those_of_numpy(greys, ends):
    scaled = between_percentiles(greys, *ends)
    for image, ours in zip(greys.numpy(), scaled, strict=True):
        low, high = np.percentile(image, ends)
        np.testing.assert_allclose(ours, np.clip((image - low) / (high - low), 0, 1), atol=1e-5)
    assert torch.equal(between_percentiles(torch.full((3, 64, 64), 7.0), *ends), torch.zeros(3, 64, 64))


@pytest.mark.parametrize("range", ["min_max", "unit", "percentile"])
def test_images_and_strong_views_lie_in_unit_range_whatever_the_preprocessing(greys, range):
    preprocessing = Preprocessing(range, (5.0, 95.0) if range == "percentile" else None)
    images = preprocessing.unit_range(greys)
    assert images.min() >= 0
    assert images.max() <= 1
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    views = drawn_views(images, generators, default_options("grata").strong_augmentation, preprocessing.back_in_range)
    assert views.min() >= 0
    assert views.max() <= 1
    # Only min-max stretches every view: a darker view of another model's image stays darker.
    is_stretched = bool((views.amax((1, 2, 3)) == 1).all() and (views.amin((1, 2, 3)) == 0).all())
    assert is_stretched == (range == "min_max")
    if range == "min_max":
        assert torch.equal(images, min_max(greys))


def section(**fields):
    return validate_section(PreprocessingConfig, {"range": "min_max", **fields}, "model.preprocessing")


def test_the_configuration_s_default_is_the_paper_s_and_a_mean_of_0_with_a_deviation_of_1_is_none():
    assert preprocessing_of(None) == preprocessing_of(section()) == PAPER
    assert section(range="unit", mean=[0], std=[1, 1, 1]) == section(range="unit")
    whole = {"range": "percentile", "percentiles": (1.0, 99.0), "mean": (0.5,), "std": (0.2, 0.25, 0.3)}
    assert preprocessing_of(section(**whole)) == Preprocessing(**whole)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"range": "percentile"}, "needs model.preprocessing.percentiles"),
        ({"percentiles": [1, 99]}, "range=min_max has no model.preprocessing.percentiles: leave them out"),
        ({"range": "percentile", "percentiles": [99, 1]}, "is reversed"),
        ({"range": "percentile", "percentiles": [5, 5]}, "are equal"),
        ({"mean": [0.5]}, "belong together"),
        ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, "mean has 2 values: give three, or one for all"),
        ({"mean": [0.5], "std": [0]}, r"model.preprocessing.std"),
        ({"range": "z_score"}, "model.preprocessing.range"),
        ({"means": [0.5]}, "unknown key 'model.preprocessing.means': did you mean"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        section(**fields)
