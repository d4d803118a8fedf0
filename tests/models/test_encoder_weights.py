"""Pretrained weights of an encoder: from files of every kind, and one attempt at the network."""

import pytest
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import encoders as known

from tta_bench.errors import UserError
from tta_bench.models import encoder as encoders
from tta_bench.models import encoder_weights
from tta_bench.models.encoder import build_encoder
from tta_bench.models.networks.unet import UNet


def plain(encoder):
    return encoder.state_dict()


def with_classifier(encoder):
    return {**encoder.state_dict(), "fc.weight": torch.zeros(10, 512)}


def of_lightning(encoder):
    state = {f"net.module.encoder.{key}": value for key, value in encoder.state_dict().items()}
    return {"state_dict": {**state, "net.module.decoder.conv1.weight": torch.zeros(3)}, "epoch": 3}


def without_counters(encoder):
    return {key: value for key, value in encoder.state_dict().items() if "num_batches" not in key}


def of_timm(encoder):
    return {key.removeprefix("model."): value for key, value in encoder.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        *[("resnet18", each) for each in (plain, with_classifier, of_lightning, without_counters)],
        ("tu-resnet10t", plain),
        ("tu-resnet10t", of_timm),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_fills_the_encoder_whatever_network_it_was_saved_in(tmp_path, name, saved, suffix):
    torch.manual_seed(1)
    trained = build_encoder(name, None)
    content = saved(trained)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(content, path)
    else:
        tensors = content.get("state_dict", content)
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    torch.manual_seed(2)
    filled = UNet(name, 1, str(path)).encoder.state_dict()
    assert all(torch.equal(filled[key], value) for key, value in trained.state_dict().items())


def wrong_content(path):
    path.write_bytes(b"no weights")


def of_another_width(path):
    torch.save({key: value[..., None] for key, value in build_encoder("resnet18", None).state_dict().items()}, path)


def of_nothing(path):
    torch.save([1, 2], path)


def absent(path):
    pass


@pytest.mark.parametrize("make", [wrong_content, of_another_width, of_nothing, absent])
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path, make):
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(UserError, match=r"model\.encoder_weights=.*weights\.pth"):
        build_encoder("resnet18", str(path))


def test_the_encoders_that_are_known_without_the_library_are_in_it():
    assert set(encoders.RESNETS) <= known.keys()


def test_weights_of_a_smaller_network_are_refused(tmp_path):
    torch.save(build_encoder("resnet18", None).state_dict(), tmp_path / "small.pth")
    with pytest.raises(UserError, match=r"lacks \d+ of the \d+ weights of encoder resnet34"):
        build_encoder("resnet34", str(tmp_path / "small.pth"))


def test_a_download_that_failed_is_not_tried_again(monkeypatch):
    attempts = []

    def unreachable(*arguments, **settings):
        attempts.append(arguments)
        raise OSError("offline")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.get_encoder", unreachable)
    monkeypatch.setattr(encoder_weights, "_downloads", {})
    for _ in range(3):
        with pytest.raises(UserError, match=r"model\.encoder_weights=PATH"):
            encoders.build_encoder("resnet18", "imagenet")
    assert len(attempts) == 1


def test_a_file_that_is_not_there_is_refused_before_work():
    with pytest.raises(UserError, match=r"model\.encoder_weights=no/such\.pth is not a file"):
        encoder_weights.check_weights_file("no/such.pth")
    for weights in (None, "imagenet", "noisy-student"):
        encoder_weights.check_weights_file(weights)
