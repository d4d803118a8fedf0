"""State dicts that others wrote: the imported network's logits are the original's, whatever the file looks like."""

import io
import pickle
import shlex
import sys

import pytest
import pytorch_lightning as pl
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader

from tta_bench.cell import run
from tta_bench.cli import main
from tta_bench.cli.checkpoint_import import import_network
from tta_bench.errors import UserError
from tta_bench.launch.check import check
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import file_sha256, read_checkpoint
from tta_bench.models.probe import probe_images
from tta_bench.schema import ModelConfig

SIZE = 64
FIXED = ("data.classes={disc: [1, 2], cup: [2]}", f"data.image_size={SIZE}", "preprocessing=unit")
SMALL = ("model=smp", "model.architecture=FPN", "model.encoder=tu-test_resnet")
SIZES = {"PAN": 128}


@pytest.fixture(scope="module")
def original():
    return network("FPN")


def network(architecture, **options):
    """One of the library, in eval mode, with statistics that are not those of an untrained one."""
    torch.manual_seed(1)
    made = getattr(smp, architecture)("tu-test_resnet", encoder_weights=None, classes=2, **options)
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return made.eval()


def imported(path, *words):
    """The network of the checkpoint that an import writes, as a run builds it."""
    out = path.with_suffix(".imported")
    import_network(path, out, [*FIXED, *words], "A")
    checkpoint = read_checkpoint(out)
    model = build_model(ModelConfig.model_validate(checkpoint.architecture), 2, pretrained=False)
    model.load_state_dict(checkpoint.state)
    return model.expect(checkpoint.preprocessing).eval(), checkpoint


@torch.no_grad()
def assert_same(model, original, size=SIZE):
    images = probe_images(size).float()
    assert torch.equal(model(images), original(images))


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        *((name, {}) for name in ("FPN", "Linknet", "MAnet", "PAN", "PSPNet", "UPerNet", "Unet", "UnetPlusPlus")),
        *((name, {}) for name in ("DeepLabV3", "DeepLabV3Plus", "Segformer")),
        ("Unet", {"decoder_attention_type": "scse"}),
    ],
)
def test_every_architecture_of_the_library_gives_its_own_logits(tmp_path, architecture, options):
    theirs, size = network(architecture, **options), SIZES.get(architecture, SIZE)
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    keys = [f"model.options.{key}={value}" for key, value in options.items()]
    words = ["model=smp", f"model.architecture={architecture}", "model.encoder=tu-test_resnet", *keys]
    model, checkpoint = imported(tmp_path / "net.pth", *words, f"data.image_size={size}")
    assert_same(model, theirs, size)
    assert checkpoint.architecture["architecture"] == architecture


def test_a_u_net_of_the_library_is_our_u_net(tmp_path):
    theirs = network("Unet", decoder_channels=(32, 16, 16, 8, 8))
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    words = ["model=unet", "model.encoder=tu-test_resnet", "model.decoder_channels=[32,16,16,8,8]"]
    model, checkpoint = imported(tmp_path / "net.pth", *words)
    assert type(model).__name__ == "UNet"
    assert checkpoint.origin == {"file": "net.pth", "sha256": file_sha256(tmp_path / "net.pth")}
    assert_same(model, theirs)


FORMS = {
    "bare": lambda state: state,
    "module.": lambda state: prefixed("module.", state),
    "model.": lambda state: prefixed("model.", state),
    "net.": lambda state: prefixed("net.", state),
    "_orig_mod.": lambda state: prefixed("_orig_mod.", state),
    "combined": lambda state: prefixed("module.module._orig_mod.model.net.", state),
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.1},
    "nested": lambda state: {"state_dict": {"model": prefixed("module.", state)}},
    "beside others": lambda state: {
        "state_dict": prefixed("net.", state) | {"criterion.weight": torch.ones(2), "metrics.total": torch.ones(1)}
    },
    "without counts": lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
}


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def test_classes_that_exclude_each_other_stand_behind_the_background_s_channel(tmp_path, original):
    """The command that is printed says so; without ``exclusive`` two outputs are not one class."""
    torch.save(original.state_dict(), tmp_path / "net.pth")
    out, words = tmp_path / "out.ckpt", [*FIXED[1:], *SMALL, "data.classes={organ: [1]}"]
    with pytest.raises(UserError, match=r"data.exclusive=true \(a softmax\)"):
        import_network(tmp_path / "net.pth", out, words, "D")
    *_, use = import_network(tmp_path / "net.pth", out, [*words, "data.exclusive=true"], "D")
    assert {"data.classes={organ: [1]}", "data.exclusive=true"} < set(shlex.split(use))
    checkpoint = read_checkpoint(out)
    model = build_model(ModelConfig.model_validate(checkpoint.architecture), 1, activation=checkpoint.activation)
    model.load_state_dict(checkpoint.state)
    assert_same(model.eval(), original)


@pytest.mark.parametrize("form", FORMS)
def test_prefixes_and_nesting_change_nothing(tmp_path, original, form):
    torch.save(FORMS[form](original.state_dict()), tmp_path / "net.pth")
    assert_same(imported(tmp_path / "net.pth", *SMALL)[0], original)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, dtype):
    theirs = network("FPN").to(dtype)
    torch.save(theirs.state_dict(), tmp_path / "net.pth")
    assert_same(imported(tmp_path / "net.pth", *SMALL)[0], theirs.float())


def test_a_file_that_was_halved_tensor_by_tensor_is_read(tmp_path, original):
    """Counts of batches, too, which are whole numbers."""
    halved = {key: value.half() for key, value in original.state_dict().items()}
    torch.save(halved, tmp_path / "net.pth")
    theirs = network("FPN")
    theirs.load_state_dict({key: value.float() for key, value in halved.items()})
    assert_same(imported(tmp_path / "net.pth", *SMALL)[0], theirs)


def test_it_says_what_else_is_there_and_what_to_type(tmp_path, original):
    state = original.state_dict()
    torch.save({"model": state, "ema": state, "epoch": 3}, tmp_path / "net.pth")
    wrote, _, use = import_network(tmp_path / "net.pth", tmp_path / "out.ckpt", [*FIXED, *SMALL], "Site 1")
    assert wrote.endswith("weights; left in the file: ema")
    assert use.endswith(" 'source=Site 1'")


def test_a_folder_is_no_file_to_get_again(tmp_path):
    with pytest.raises(UserError, match="is a folder: check the path"):
        import_network(tmp_path, tmp_path / "out.ckpt", [*FIXED, *SMALL], None)


def test_without_words_the_sentence_says_which(tmp_path, original, capsys):
    torch.save(original.state_dict(), tmp_path / "net.pth")
    with pytest.raises(SystemExit):
        main(["checkpoint", "import", str(tmp_path / "net.pth"), str(tmp_path / "out.ckpt")])
    assert "FILE OUT model=NAME data.classes={NAME: [VALUE]} data.image_size=" in capsys.readouterr().err


def test_safetensors_are_read(tmp_path, original):
    save_file(prefixed("model.", original.state_dict()), tmp_path / "net.safetensors")
    assert_same(imported(tmp_path / "net.safetensors", *SMALL)[0], original)


class Module(pl.LightningModule):
    """A user's own, with a loss that has weights."""

    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"lr": 1e-3, "encoder": "tu-test_resnet"})
        self.net = network("FPN")
        self.criterion = nn.BCEWithLogitsLoss(pos_weight=torch.ones(2, 1, 1))

    def training_step(self, batch, batch_idx):
        return self.criterion(self.net(batch), torch.ones(len(batch), 2, SIZE, SIZE))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def test_a_checkpoint_of_a_lightning_trainer_is_read(tmp_path, capsys):
    module = Module()
    trainer = pl.Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    trainer.fit(module, DataLoader(probe_images(SIZE).float(), batch_size=2))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    words = [*FIXED, *SMALL, "--domain", "A"]
    main(["checkpoint", "import", str(tmp_path / "last.ckpt"), str(tmp_path / "out.ckpt"), *words])
    said = capsys.readouterr().out
    assert "left in the file: criterion" in said
    assert "model.architecture=FPN" in said
    checkpoint = read_checkpoint(tmp_path / "out.ckpt")
    model = build_model(ModelConfig.model_validate(checkpoint.architecture), 2, pretrained=False)
    model.load_state_dict(checkpoint.state)
    assert_same(model.eval(), module.net.eval())
    main(["checkpoint", "verify", str(tmp_path / "out.ckpt")])
    shown = capsys.readouterr().out
    for part in ("smp, architecture FPN, encoder tu-test_resnet", "preprocessing:  unit", "classes:        disc, cup"):
        assert part in shown
    assert f"imported from last.ckpt, sha256 {file_sha256(tmp_path / 'last.ckpt')}" in " ".join(shown.split())


class Trap:
    """What a file from a stranger may do when it is unpickled."""

    def __reduce__(self):
        return (sys.exit, (99,))


@pytest.mark.parametrize(
    ("spoil", "words", "sentence"),
    [
        (None, ["model.encoder=resnet34"], "does not hold this network"),
        (
            lambda state: {k: v for k, v in state.items() if ".layer1." not in k},
            [],
            "does not fit the network: missing weights: encoder.model.layer1.0.conv1.weight",
        ),
        (None, ["model.architecture=Unet"], "does not fit the network|does not hold this network"),
        (
            None,
            ["data.classes={disc: [1]}"],
            r"segmentation_head.0.weight \[2, 128, 1, 1\] instead of \[1, 128, 1, 1\]",
        ),
        (None, ["model.architecture=fpm"], "unknown model.architecture=fpm: did you mean 'FPN'"),
        (None, ["model.architecture=unetplusplus"], "did you mean 'UnetPlusPlus'"),
        (None, ["model.architecture=DPT"], "takes images of one size alone"),
        (None, ["model.options.decoder_dropot=0"], "unknown key 'model.options.decoder_dropot': did you mean"),
        (None, ["model.options.psp_dropout=0"], "unknown key 'model.options.psp_dropout' of FPN: did you mean"),
        (None, ["model.decoder_channels=[8,8,8,8,8]"], "unknown key 'model.decoder_channels'|has no model.decoder"),
        (lambda state: state | {"decoder.extra": torch.ones(2)}, [], "unexpected weights: decoder.extra"),
        (lambda state: state | {"decoder.extra": Trap()}, [], "could execute code, so it is refused.*trust the file"),
        (lambda state: {"weights": state}, [], "holds no state dict"),
        (lambda state: prefixed("a.", state) | prefixed("b.", state), [], "two such networks, 'a.' and 'b.'"),
        (lambda state: {k: v * float("nan") if v.dim() == 4 else v for k, v in state.items()}, [], "not finite.*again"),
    ],
)
def test_what_does_not_fit_is_a_sentence_and_writes_nothing(tmp_path, original, spoil, words, sentence):
    state = dict(original.state_dict())
    torch.save(state if spoil is None else spoil(state), tmp_path / "net.pth")
    given = {word.lstrip("+").partition("=")[0]: word for word in (*FIXED, *SMALL, *words)}
    with pytest.raises(UserError, match=sentence):
        import_network(tmp_path / "net.pth", tmp_path / "out.ckpt", list(given.values()), "A")
    assert not (tmp_path / "out.ckpt").exists()


def test_a_pickle_that_is_no_archive_is_not_executed(tmp_path):
    (tmp_path / "net.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match="could execute code"):
        import_network(tmp_path / "net.pth", tmp_path / "out.ckpt", [*FIXED, *SMALL], "A")


@pytest.mark.parametrize("lacking", ["preprocessing", "data.image_size", "data.classes", "model"])
def test_what_the_file_does_not_say_is_asked_for(tmp_path, original, lacking):
    torch.save(original.state_dict(), tmp_path / "net.pth")
    words = [word for word in (*FIXED, *SMALL) if word.partition("=")[0] != lacking]
    with pytest.raises(UserError, match=f"'{lacking}' is missing") as caught:
        import_network(tmp_path / "net.pth", tmp_path / "out.ckpt", words, "A")
    if lacking == "preprocessing":
        assert all(name in str(caught.value) for name in ("imagenet", "min_max", "percentile", "unit"))


def test_at_a_terminal_the_preprocessing_is_asked_for(tmp_path, original, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    torch.save(original.state_dict(), tmp_path / "net.pth")
    monkeypatch.setattr(sys, "stdin", Terminal("something\nimagenet\n"))
    monkeypatch.setattr(sys, "stdout", Terminal())
    import_network(tmp_path / "net.pth", tmp_path / "out.ckpt", [*FIXED[:2], *SMALL], None)
    found = read_checkpoint(tmp_path / "out.ckpt")
    assert found.preprocessing.mean == (0.485, 0.456, 0.406)
    assert found.domain is None


@pytest.mark.parametrize("method", ["grata", "diga"])
def test_an_imported_network_is_adapted(tmp_path, original, method):
    """FPN classifies at a quarter of the resolution."""
    torch.save(original.state_dict(), tmp_path / "net.pth")
    import_network(tmp_path / "net.pth", tmp_path / "out.ckpt", [*FIXED, *SMALL], "D")
    given = [f"checkpoint={tmp_path}/out.ckpt", f"results_root={tmp_path}/results", "data.limit=2"]
    words = [f"+method={method}", "source=D", "target=A", "data.image_size=64", *SMALL, *given]
    (config,) = check(words, multirun=False)
    ((_, (summary, rows), reference),) = run(config)
    assert len(rows) == 2
    assert summary["skipped_updates"] == 0
    assert reference is not None
