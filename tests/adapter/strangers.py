"""Networks that nobody here wrote, small, with normalisation away from where it starts."""

from functools import cache

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from small_networks import scramble_normalisation


class TimmFeatures(nn.Module):
    """The pyramid of a timm encoder, summed at the resolution of the image."""

    def __init__(self):
        super().__init__()
        self.encoder = timm.create_model("resnet10t", pretrained=False, features_only=True, out_indices=(1, 2))
        self.heads = nn.ModuleList(nn.Conv2d(width, 2, 1) for width in self.encoder.feature_info.channels())

    def forward(self, images):
        logits = (head(feature) for head, feature in zip(self.heads, self.encoder(images), strict=True))
        return sum(nn.functional.interpolate(each, images.shape[-2:], mode="bilinear") for each in logits)


class Plain(nn.Module):
    """Two convolutions with a normalisation between them; the output in a tuple."""

    def __init__(self, normalisation, channels=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), normalisation, nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, images):
        return self.head(self.stem(images)), None


def torchvision_network(name):
    from torchvision.models import segmentation

    return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=3, aux_loss=True)


def unet(**options):
    return smp.Unet(**{"encoder_name": "resnet18", "decoder_channels": (16, 16, 8, 8, 8), **SMP, **options})


def basic_unet():
    from monai.networks.nets import BasicUNet

    return BasicUNet(spatial_dims=2, in_channels=1, out_channels=2, features=(8, 8, 16, 16, 16, 8))


def dyn_unet():
    from monai.networks.nets import DynUNet

    return DynUNet(2, 3, 2, kernel_size=[3] * 3, strides=[1, 2, 2], upsample_kernel_size=[2, 2], filters=[8, 8, 16])


SMP = {"encoder_weights": None, "classes": 2}
NETWORKS = {
    "torchvision_fcn": lambda: torchvision_network("fcn_resnet50"),
    "torchvision_deeplab": lambda: torchvision_network("deeplabv3_resnet50"),
    "smp_unet": unet,
    "smp_grey": lambda: unet(in_channels=1, classes=1),
    "smp_auxiliary": lambda: unet(aux_params={"classes": 4, "dropout": 0.5}),
    "smp_mobile": lambda: unet(encoder_name="mobilenet_v2"),
    "smp_fpn": lambda: smp.FPN("resnet18", **SMP),
    "smp_deeplab": lambda: smp.DeepLabV3Plus("resnet18", **SMP),
    "smp_transformer": lambda: smp.Unet("mit_b0", decoder_channels=(16, 16, 8, 8, 8), **SMP),
    "timm": TimmFeatures,
    "monai_basic": basic_unet,
    "monai_dynamic": dyn_unet,
    "group": lambda: Plain(nn.GroupNorm(2, 8)),
    "instance": lambda: Plain(nn.InstanceNorm2d(8, affine=True)),
    "five_channels": lambda: Plain(nn.BatchNorm2d(8), channels=5),
}


@cache
def stranger(name):
    """A network with reproducible weights, float32, in training mode as its constructor leaves it. Shared by tests."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return scramble_normalisation(NETWORKS[name]()).train()


def channels_of(network):
    return next(module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d))
