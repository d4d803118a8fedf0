import pytest
import torch

from tta_bench.source.dataset import EpochOrder, SourceImages, training_batches
from tta_bench.source.held_out import split


def epoch_batches(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_worker_counts_agree_bit_for_bit(make_config, make_domain):
    training, domain = make_config().training, make_domain(5)
    results = []
    for workers in (0, 1, 2):
        loader = training_batches(domain, range(5), training, workers=workers)
        results.append([batch for epoch in (0, 1) for batch in epoch_batches(loader, epoch)])
    for other in results[1:]:
        for (image, label), (other_image, other_label) in zip(results[0], other, strict=True):
            assert torch.equal(image, other_image)
            assert torch.equal(label, other_label)


def test_images_are_scaled_after_augmentation(make_config, make_domain):
    images = SourceImages(make_domain(), make_config().training)
    for index in range(4):
        image, label = images[3, index]
        assert (image.min(), image.max()) == (0, 1)
        assert image.dtype == torch.float32
        assert label.shape == (2, 64, 64)
        assert (label[1] <= label[0]).all()  # the cup lies in the disc


def test_every_epoch_has_another_order_and_all_images():
    order = EpochOrder([3, 5, 7, 9, 11, 13], seed=0)
    epochs = []
    for epoch in range(3):
        order.set_epoch(epoch)
        items = list(order)
        assert {at for at, _ in items} == {epoch}
        epochs.append([index for _, index in items])
    assert all(sorted(indices) == [3, 5, 7, 9, 11, 13] for indices in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert list(EpochOrder([3, 5, 7, 9, 11, 13], seed=1)) != list(EpochOrder([3, 5, 7, 9, 11, 13], seed=0))


@pytest.mark.parametrize(("count", "sizes"), [(2, [2]), (3, [3]), (4, [4]), (5, [4]), (6, [4, 2]), (9, [4, 4])])
def test_no_batch_has_one_image(make_config, make_domain, count, sizes):
    training = make_config(batch_size=4).training
    loader = training_batches(make_domain(count), range(count), training, workers=0)
    assert [len(images) for images, _ in loader] == sizes


def test_split_is_seeded_disjoint_and_complete():
    train, held_out = split(100, 0.2, seed=0)
    assert len(held_out) == 20
    assert sorted(train + held_out) == list(range(100))
    assert split(100, 0.2, seed=0) == (train, held_out)
    assert split(100, 0.2, seed=1) != (train, held_out)
    assert split(3, 0.0, seed=0) == ([0, 1, 2], [])
    assert len(split(3, 0.01, seed=0)[1]) == 1
