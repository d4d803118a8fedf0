"""Any method on anybody's network: laws over the registry on one network, and a few methods on many networks."""

import copy
import io
import pickle

import pytest
import torch
from strangers import NETWORKS, Plain, channels_of, stranger, unet
from torch import nn

from small_networks import build, source_images
from tta_bench import Adapter
from tta_bench.errors import UserError
from tta_bench.methods.base import METHODS
from tta_bench.methods.options import default_options
from tta_bench.models.adaptable import AdaptableNetwork
from tta_bench.models.bank import make_bank
from tta_bench.models.foreign import logits_of
from tta_bench.models.networks.unet import UNet
from tta_bench.models.normalisation import SourceStatistics
from tta_bench.models.placement import place
from tta_bench.models.probe import relative_difference
from tta_bench.ops.draws import ImageKey
from tta_bench.ops.preprocessing import Preprocessing

NAMES = METHODS.names()
OPTIONS = {
    "dltta": {"memory": 3, "neighbours": 2, "rate_scale": 0.1, "largest_rate": 1e-2},
    "vptta": {"prompt_size": 3, "memory": 3, "neighbours": 2},
    "diga": {"confidence": 0.5},
    "sar": {"margin": 0.95},
}
"""Memories that fill within the streams, and margins that an untrained network reaches."""

every_method = pytest.mark.parametrize("name", NAMES)


def plain(channels=3):
    """A network of which nothing is known, with BatchNorm."""
    return Plain(nn.BatchNorm2d(8), channels)


def adapter_of(network, name, **options):
    """An adapter with all that a method may need of a :class:`Plain` network."""
    channels = channels_of(network)
    heads = {"denoising": build(lambda: nn.Sequential(nn.Conv2d(8, channels, 1), nn.BatchNorm2d(channels)), seed=1)}
    kind = METHODS.get(name)
    needed = kind.branches(default_options(name))
    options = {**OPTIONS.get(name, {}), **options}
    if kind.card.setting == "tta+bank":
        options.setdefault("source_images", source_images()[:, :channels])
    return Adapter(
        network,
        name,
        features={"bottleneck": "stem", "head_input": "stem"},
        branches={branch: heads[branch] for branch in needed},
        **options,
    )


@pytest.fixture(scope="module")
def network():
    return build(plain).train()


@pytest.fixture(scope="module")
def own():
    """A network of this package, and the same weights in one of the library."""
    settings = {"decoder_channels": (16, 16, 8, 8, 8)}
    model = build(lambda: UNet("tu-test_resnet", 2, branches=["denoising"], **settings)).float()
    theirs = unet(encoder_name="tu-test_resnet", **settings)
    state = {key.replace("head.", "segmentation_head.", 1): value for key, value in model.state_dict().items()}
    theirs.load_state_dict({key: value for key, value in state.items() if not key.startswith("branches.")})
    return model, theirs


def content(network):
    """All that could change in a network."""
    return [
        *((name, module.training) for name, module in network.named_modules()),
        *((name, value.clone()) for name, value in network.state_dict().items()),
        *((name, value.requires_grad, value.grad) for name, value in network.named_parameters()),
    ]


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for x, y in zip(first, second, strict=True)
        for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stranger_s_network_is_adapted_and_exported_and_stays_as_it_is(name, images):
    if name.startswith("monai"):
        pytest.importorskip("monai")
    network = stranger(name)
    before, channels = content(network), channels_of(network)
    batch = torch.cat([images, images.flip(0)], dim=1)[:2, :channels].float()
    adapter = Adapter(network, "tent", learning_rate=1e-2, activation="softmax" if "torchvision" in name else "sigmoid")
    adaptable = adapter.method.network
    with torch.no_grad():
        source = logits_of(network.eval()(batch))
        network.train()
        wrapped = adaptable(batch, adaptable.source_theta[None], SourceStatistics())
    assert relative_difference(wrapped, source) < 1e-3
    logits = adapter(batch)
    assert logits.shape == source.shape
    assert logits.dtype == torch.float32
    assert adapter.diagnostics["skipped"] == [0, 0]
    exported = adapter.export()
    assert type(exported) is type(network)
    assert relative_difference(logits_of(exported(batch[1:])), logits[1:]) < 1e-3
    assert relative_difference(logits[1:], source[1:]) > 1e-3
    assert same(content(network), before)


@pytest.mark.parametrize("name", ["torchvision_fcn", "smp_deeplab"])
def test_feature_maps_of_known_networks_are_found(name, images):
    adapter = Adapter(stranger(name), "diga", confidence=0.5)
    network = adapter.method.network
    found = network.activations(images[:1].float(), network.source_theta[None], SourceStatistics())
    assert found.head_input.shape[2:] == found.logits.shape[2:]
    assert found.bottleneck.shape[2] < 64
    assert adapter(images[:2].float()).isfinite().all()
    assert adapter.diagnostics["confident"][1] > 0


@every_method
def test_a_method_on_the_library_s_network_is_bit_for_bit_that_of_a_cell(own, images, name):
    model, theirs = own
    changes = OPTIONS.get(name, {})
    kind, options = METHODS.get(name), default_options(name, **changes)
    needed = kind.branches(options)
    method = kind(place(AdaptableNetwork(model, needed), torch.device("cpu"), 64), options)
    batch = images[:1].float()
    if kind.card.setting == "tta+bank":
        changes = {**changes, "source_images": source_images()}
        method.network.model.bank = make_bank(source_images().float(), 2.2, "amplitudes_only")
    adapter = Adapter(theirs, name, branches={branch: model.branches[branch] for branch in needed}, **changes)
    method.start(1)
    expected = method.step(batch, [ImageKey(0, "", "0")])
    assert torch.equal(adapter(batch), expected.logits)
    assert adapter.diagnostics == expected.diagnostics
    assert torch.equal(adapter.method.theta(1), method.theta(1))


@every_method
def test_independent_streams_are_as_many_adapters(network, images, name):
    adapter = adapter_of(network, name, streams="each")
    alone = [adapter_of(network, name) for _ in range(3)]
    for batch in (images[:3], images[3:6], images[6:8]):  # the last one smaller: of the first streams
        expected = torch.cat([each(image[None]) for each, image in zip(alone, batch, strict=False)])
        torch.testing.assert_close(adapter(batch), expected, rtol=0, atol=1e-9)
    with pytest.raises(UserError, match="4 images for 3 streams"):
        adapter(images[:4])


@every_method
def test_a_state_goes_on_to_the_same_bits_in_a_fresh_adapter(network, images, name):
    adapter, fresh = adapter_of(network, name), adapter_of(network, name)
    first = adapter(images[:3])
    file = io.BytesIO()
    torch.save(adapter.state_dict(), file)
    kept = adapter.state_dict()
    second = adapter(images[3:6])
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert torch.equal(fresh(images[3:6]), second)
    adapter.load_state_dict(kept)
    assert torch.equal(adapter(images[3:6]), second)
    adapter.reset()
    assert torch.equal(adapter(images[:3]), first)


@every_method
def test_an_export_predicts_alike_or_a_sentence_says_why_not(network, images, name):
    adapter = adapter_of(network, name)
    logits = adapter(images[:2])
    if name in {"alpha_bn", "diga", "domain_adaptor", "fda", "medbn", "memo", "vptta"}:
        with pytest.raises(UserError, match=r"state_dict\(\)|each image"):
            adapter.export()
        return
    torch.testing.assert_close(logits_of(adapter.export()(images[1:2])), logits[1:], rtol=0, atol=1e-9)


@every_method
def test_oblong_grey_images_of_three_exclusive_classes(images, name):
    grey = build(plain, 1)
    grey.head = nn.Conv2d(8, 3, 1).double()
    before = content(grey)
    batch = images[:2, :1, :, :48]
    outputs = []
    for grad in (torch.no_grad, torch.enable_grad):
        with grad():
            adapter = adapter_of(grey, name, activation="softmax")
            outputs.append(adapter(batch))
    assert outputs[0].shape == (2, 3, 64, 48)
    assert not outputs[1].requires_grad
    assert torch.equal(*outputs)
    assert torch.equal(adapter_of(grey, name, activation="softmax")(batch[0]), outputs[0][0])
    assert not any(adapter.diagnostics.get("skipped", []))
    assert same(content(grey), before)


@every_method
def test_what_a_method_needs_is_asked_for_at_construction(network, name):
    kind = METHODS.get(name)
    needed = kind.branches(default_options(name))
    if kind.card.setting == "tta+bank":
        with pytest.raises(UserError, match=r"sees a bank of source images: give some .* source_images="):
            Adapter(network, name)
        return
    with pytest.raises(UserError, match="sees no source images: leave source_images= out"):
        adapter_of(network, name, source_images=source_images())
    if not (needed or kind.card.features):
        assert Adapter(network, name)(torch.rand(1, 3, 64, 64)).isfinite().all()
        return
    with pytest.raises(UserError) as error:
        Adapter(network, name)
    for part in (*kind.card.features, *needed):
        assert part in str(error.value)
    assert "features={" in str(error.value)


@every_method
def test_no_option_of_a_method_has_the_name_of_an_argument(name):
    arguments = Adapter.__init__.__annotations__.keys()
    assert not METHODS.get(name).Options.__dataclass_fields__.keys() & arguments


def test_steps_and_resets_are_those_of_the_protocol(network, images):
    twice = adapter_of(network, "tent", steps=2)
    assert not torch.equal(twice(images[:2]), adapter_of(network, "tent")(images[:2]))
    episodic = adapter_of(network, "tent", episodic=True)
    assert torch.equal(episodic(images[:2])[1:], adapter_of(network, "tent")(images[1:2]))
    before = adapter_of(network, "tent", predict="before")
    assert torch.equal(before(images[:1]), adapter_of(network, "bn_only")(images[:1]))
    assert not torch.equal(adapter_of(network, "grata", seed=1)(images[:1]), adapter_of(network, "grata")(images[:1]))


class Shifted(nn.Module):
    """A network for images in another range, of the same weights."""

    def __init__(self, network, low, span):
        super().__init__()
        self.network, self.low, self.span = network, low, span
        self.stem = network.stem  # under the name that tells where the features are

    def forward(self, images):
        return self.network((images - self.low) / self.span)


@every_method
def test_methods_work_in_the_unit_range_whatever_the_network_takes(network, images, name):
    low, span = (images.new_tensor(each)[:, None, None] for each in ((-1.0, 0.0, -2.0), (2.0, 255.0, 5.0)))
    bank = METHODS.get(name).card.setting == "tta+bank"
    more = {"source_images": source_images() * span + low} if bank else {}
    adapter = adapter_of(Shifted(network, low, span), name, value_range=((-1, 0, -2), (1, 255, 3)), **more)
    expected = adapter_of(network, name)
    for part in images[:4].split(2):
        torch.testing.assert_close(adapter(part * span + low), expected(part), rtol=0, atol=1e-6)
    if METHODS.get(name).card.needs_unit_range:
        with pytest.raises(UserError, match=r"value_range=.* or preprocess="):
            expected(images[:1] * 1.1)
    else:
        expected(images[:1] * 1.1)


def test_grey_levels_are_preprocessed_as_asked(network, images):
    grey = (images[:2] * 255).round()
    mean, std = (images.new_tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    adapter = Adapter(network, "grata", preprocess="imagenet")
    given = Preprocessing("unit", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    logits = adapter(grey.to(torch.uint8))
    assert torch.equal(logits, Adapter(network, "grata", preprocess=given)(grey))
    before = Adapter(network, "no_adapt")((grey / 255 - mean) / std)
    torch.testing.assert_close(Adapter(network, "no_adapt", preprocess="imagenet")(grey), before)
    exported = logits_of(adapter.export()((grey[1:] / 255 - mean) / std))
    torch.testing.assert_close(exported, logits[1:])
    with pytest.raises(UserError, match="unknown preprocessing 'imagnet': did you mean 'imagenet'"):
        Adapter(network, preprocess="imagnet")
    with pytest.raises(UserError, match=r"uint8.*preprocess="):
        Adapter(network, "tent")(grey.to(torch.uint8))
    with pytest.raises(UserError, match="give the lowest and the highest"):
        Adapter(network, value_range=(1, 0))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:FutureWarning")
def test_bad_input_is_refused(network, images):
    with pytest.raises(UserError, match="did you mean 'grata'"):
        Adapter(network, "grta")
    with pytest.raises(UserError, match=r"unknown key 'method\.learning_rat'"):
        Adapter(network, learning_rat=1)
    with pytest.raises(UserError, match="streams='both'"):
        Adapter(network, streams="both")
    with pytest.raises(UserError, match="there is no such module"):
        Adapter(network, features={"bottleneck": "steam"})
    with pytest.raises(UserError, match="uses no such branch"):
        Adapter(network, "tent", branches={"denoising": nn.Identity()})
    with pytest.raises(UserError, match="does not return logits"):
        Adapter(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()))
    adapter = Adapter(network, "tent")
    with pytest.raises(UserError, match="4 channels, and the network takes 3"):
        adapter(torch.rand(1, 4, 64, 64))
    with torch.inference_mode():
        made_there = images[:1].clone()
        with pytest.raises(UserError, match="inference_mode"):
            adapter(made_there)
    assert torch.equal(adapter(made_there), Adapter(network, "tent")(images[:1]))
    with pytest.raises(UserError, match="method=tent, and this one has bn_only"):
        Adapter(network, "bn_only").load_state_dict(adapter.state_dict())
    for faulty, sentence in (
        ((images.numpy(),), "images are a ndarray"),
        ((images[:0],), "N of at least 1"),
    ):
        with pytest.raises(UserError, match=sentence):
            adapter(*faulty)
    for arguments, sentence in (
        ({"steps": 1.5}, "steps=1.5: give a whole number"),
        ({"seed": None}, "seed=None: give a whole number"),
        ({"preprocess": {"mean": 0}}, "preprocess={'mean': 0}: give the name"),
        ({"value_range": 1}, "value_range=1: give two"),
    ):
        with pytest.raises(UserError, match=sentence):
            Adapter(network, "tent", **arguments)
    with torch.device("meta"):
        on_meta = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    traced = torch.jit.trace(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).eval(), torch.ones(1, 3, 8, 8))
    for unusable, sentence in ((on_meta, "has no weights"), (traced, "TorchScript"), (len, "give a torch.nn.Module")):
        with pytest.raises(UserError, match=sentence):
            Adapter(unusable, "tent")
    with torch.inference_mode(), pytest.raises(UserError, match="inference_mode"):
        Adapter(network, "tent")


@pytest.mark.parametrize("scale", [1 / 255, 256, -1])
def test_images_that_are_no_grey_levels_are_refused_where_their_scale_counts(network, images, scale):
    grey = (images * 255).round()
    with pytest.raises(UserError, match="takes grey levels, 0 to 255"):
        Adapter(network, "tent", preprocess="imagenet")(grey * scale)
    Adapter(network, "tent", preprocess="imagenet")((images > 0.5).byte())  # nearly black, and bytes are grey levels
    if scale > 0:
        Adapter(network, "tent", preprocess="min_max")(grey * scale)


def test_a_state_belongs_to_the_weights_and_the_preprocessing(network, images):
    adapter = Adapter(network, "tent")
    adapter(images[:1])
    state = adapter.state_dict()
    other = copy.deepcopy(network)
    next(other.parameters()).data.mul_(2)
    with pytest.raises(UserError, match="with network="):
        Adapter(other, "tent").load_state_dict(state)
    with pytest.raises(UserError, match="preprocessing=min_max, and this one has unit, mean"):
        Adapter(network, "tent", preprocess="imagenet").load_state_dict(state)
    for junk in (None, {}, {"made_by": state["made_by"]}):
        with pytest.raises(UserError, match="this is no state of an Adapter"):
            adapter.load_state_dict(junk)


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, lambda net: torch.compile(net, backend="eager"), lambda net: net],
    ids=["parallel", "compiled", "as it is"],
)
def test_a_wrapped_network_a_memory_format_and_an_autocast_change_nothing(images, wrap):
    network = build(unet, encoder_name="tu-test_resnet")
    expected = Adapter(network, "diga")(images)  # finds the feature maps inside
    adapter = Adapter(wrap(network), "diga")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(adapter(images.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_adapted_as_float32(network, images, dtype):
    half = copy.deepcopy(network).to(dtype)
    logits = Adapter(half, "tent")(images)
    assert torch.equal(logits, Adapter(copy.deepcopy(half).float(), "tent")(images))
    assert next(half.parameters()).dtype == dtype


def test_an_adapter_is_copied_and_pickled_with_its_state(network, images):
    adapter = Adapter(network, "grata")
    adapter(images[:1])
    for copied in (copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))):
        assert torch.equal(copied(images[1:]), copy.deepcopy(adapter)(images[1:]))
