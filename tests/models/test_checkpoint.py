"""Checkpoints of our own: written, read, described, and refused where they do not fit or cannot be read."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from checkpoints import RESUNET, UNET, Payload, official_state, run_config, write

from tta_bench.cli.checkpoint_import import import_official
from tta_bench.cli.checkpoint_verify import verify
from tta_bench.errors import UserError
from tta_bench.models.build import build_model
from tta_bench.models.checkpoint import load_checkpoint, read_checkpoint, read_description
from tta_bench.schema import RunConfig


def rewrite(path: Path, change) -> Path:
    """Edit the stored dictionary as a careless script would."""
    payload = torch.load(path, weights_only=True)
    change(payload)
    torch.save(payload, path)
    return path


@pytest.fixture
def config() -> RunConfig:
    return run_config()


@pytest.fixture
def own(tmp_path, config) -> Path:
    return write(tmp_path / "own.ckpt", config)


class TestOwnFormat:
    def test_round_trip_gives_the_same_network_and_its_description(self, own, config):
        torch.manual_seed(0)
        expected = build_model(config.model, 2).eval()
        source = load_checkpoint(own, config)
        images = torch.rand(2, 3, 64, 64)
        assert torch.equal(source.model(images), expected(images))
        assert not source.model.training
        assert (source.domain, source.image_size, source.fingerprint) == ("A", 64, "abc")
        assert source.classes == {"disc": (1, 2), "cup": (2,)}
        assert source.dice_in_domain == 85
        assert source.dice_in_domain_per_class == {"disc": 90, "cup": 80}
        assert source.training["epochs"] == 2
        assert len(source.sha256) == 64

    def test_equal_models_give_equal_bytes_and_no_temporary_file_stays(self, tmp_path, config, own):
        again = write(tmp_path / "another name.ckpt", config)
        assert own.read_bytes() == again.read_bytes()
        assert sorted(os.listdir(tmp_path)) == ["another name.ckpt", "own.ckpt"]

    def test_unmeasured_dice_stays_unknown(self, tmp_path, config):
        path = write(tmp_path / "m.ckpt", config, dice_in_domain_per_class=None)
        assert load_checkpoint(path, config).dice_in_domain is None

    def test_leaves_branches_that_are_not_asked_for_in_the_file(self, tmp_path, config):
        path = write(tmp_path / "m.ckpt", run_config({**UNET, "branches": ["rotation", "denoising"]}))
        assert list(load_checkpoint(path, config).model.branches) == []
        with_one = run_config({**UNET, "branches": ["denoising"]})
        assert list(load_checkpoint(path, with_one).model.branches) == ["denoising"]

    def test_other_mask_values_for_the_same_classes_are_a_warning(self, own, caplog):
        load_checkpoint(own, run_config(classes={"disc": [0, 128], "cup": [0]}))
        assert "learnt class disc from mask values [1, 2], data.classes.disc is [0, 128]" in caplog.text


class TestWhatDoesNotFit:
    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            (run_config(RESUNET), r"its network is unet, but model=resunet34: use model=unet"),
            (
                run_config({**UNET, "encoder": "resnet34"}),
                r"its encoder is tu-test_resnet, but model.encoder=resnet34: use model.encoder=tu-test_resnet",
            ),
            (
                run_config({**UNET, "decoder_channels": None}),
                r"its decoder widths are \[16, 16, 8, 8, 8\], but model.decoder_channels=\[256, 128, 64, 32, 16\]"
                r": use model.decoder_channels=\[16,16,8,8,8\]",
            ),
            (
                run_config({**UNET, "branches": ["rotation"]}),
                r"it has no branch rotation \(it has: none\), but model.branches asks for it",
            ),
            (
                run_config(classes={"cup": [2], "disc": [1, 2]}),
                r"its classes are disc, cup, but data.classes are cup, disc",
            ),
            (run_config(classes={"disc": [1]}), r"its classes are disc, cup, but data.classes are disc:"),
            (
                run_config(image_size=96),
                r"its image size is 64, but data.image_size=96: use data.image_size=64",
            ),
            (run_config(source="B"), r"its domain is A, but source=B: use source=A"),
        ],
    )
    def test_is_refused_with_file_field_both_values_and_remedy(self, own, asked, message):
        with pytest.raises(UserError, match=message) as caught:
            load_checkpoint(own, asked)
        assert all(fault.startswith(f"checkpoint {own}: ") for fault in caught.value.faults)

    def test_reports_all_faults_at_once(self, own):
        with pytest.raises(UserError) as caught:
            load_checkpoint(own, run_config({**UNET, "encoder": "resnet34"}, source="B", image_size=96))
        assert len(caught.value.faults) == 3

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda p: p.update(format_version=9), "its format_version is 9, this tta_bench reads 1"),
            (lambda p: p.pop("domain"), "lacks domain: it was edited or damaged"),
            (
                lambda p: p.update(preprocessing="z-score"),
                "preprocessing is 'z-score', which this tta_bench does not",
            ),
            (
                lambda p: p["state"].update({"head.0.bias": "text"}),
                r"other things than plain tensors: head.0.bias \(str\)",
            ),
            (lambda p: p["state"].pop("head.0.bias"), "missing weights: head.0.bias"),
            (lambda p: p["state"].update(extra=torch.zeros(1)), "unexpected weights: extra"),
            (
                lambda p: p["state"].update({"head.0.bias": torch.zeros(7)}),
                r"wrong shapes: head.0.bias \[7\] instead of \[2\]",
            ),
            (lambda p: p["state"]["head.0.bias"].fill_(float("nan")), "not finite .* in head.0.bias"),
        ],
    )
    def test_edited_files_are_refused(self, own, config, change, message):
        with pytest.raises(UserError, match=message):
            load_checkpoint(rewrite(own, change), config)


class TestUnreadableFiles:
    def check(self, path: Path, message: str, config: RunConfig) -> None:
        with pytest.raises(UserError, match=message) as caught:
            load_checkpoint(path, config)
        assert str(path) in str(caught.value)

    def test_missing(self, tmp_path, config):
        self.check(tmp_path / "none.pth", "does not exist: check the path", config)

    def test_empty(self, tmp_path, config):
        (tmp_path / "m.pth").touch()
        self.check(tmp_path / "m.pth", "is empty", config)

    @pytest.mark.parametrize("part", [0.01, 0.5, 0.999])
    def test_truncated(self, own, config, part):
        content = own.read_bytes()
        own.write_bytes(content[: int(len(content) * part)])
        self.check(own, "is truncated", config)

    def test_one_changed_bit(self, own, config):
        content = bytearray(own.read_bytes())
        content[len(content) // 2] ^= 1
        own.write_bytes(content)
        self.check(own, "is damaged", config)

    def test_the_format_of_old_torch_has_no_checksums_and_is_refused(self, tmp_path, config):
        path = tmp_path / "m.pth"
        torch.save(official_state(), path, _use_new_zipfile_serialization=False)
        self.check(path, r"of the format of PyTorch before 1\.6, .* save it again with torch.save", config)

    def test_not_a_pytorch_file(self, tmp_path, config):
        path = tmp_path / "m.pth"
        path.write_text("<html>404</html>")
        self.check(path, "is not a PyTorch file", config)

    def test_another_network(self, tmp_path, config):
        path = tmp_path / "m.pth"
        torch.save({"layer.weight": torch.zeros(3)}, path)
        self.check(path, "is neither a checkpoint of tta_bench nor the GraTa authors' ResUNet-34", config)

    @pytest.mark.parametrize("container", ["archive", "old torch", *range(pickle.HIGHEST_PROTOCOL + 1)])
    def test_a_pickle_that_executes_code_is_refused_and_never_executed(self, tmp_path, config, container):
        path, target = tmp_path / "m.pth", tmp_path / "created"
        content = {"state_dict": Payload(target)}
        if isinstance(container, int):
            path.write_bytes(pickle.dumps(content, protocol=container))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=container == "archive")
        text = container in (0, 1)  # these pickles have no header that would tell them from any other text
        self.check(path, "not a PyTorch file" if text else "refused", config)
        assert not target.exists()
        if isinstance(container, int):  # now prove that it was a real one
            pickle.loads(path.read_bytes())
        else:
            torch.load(path, weights_only=False)
        assert target.exists()


class TestCommands:
    def test_verify_says_what_the_file_is(self, own):
        text = verify(own)
        lines = dict(line.split(":", 1) for line in text.splitlines())
        found = {key: value.strip() for key, value in lines.items()}
        assert found["network"] == "unet, encoder tu-test_resnet"
        assert found["classes"] == "disc, cup"
        assert found["domain"] == "A"
        assert found["training"] == "test, 2 epochs"
        assert found["in-domain Dice"] == "85.00 % (disc 90.00, cup 80.00)"
        assert found["sha256"] == read_checkpoint(own).sha256

    def test_verify_counts_the_affine_scalars_of_the_paper(self, official):
        assert "53 layers, 22,016 affine scalars" in verify(official)

    def test_verify_refuses_weights_that_do_not_fit_the_architecture(self, own):
        rewrite(own, lambda p: p["architecture"].update(encoder="resnet34"))
        with pytest.raises(UserError, match="missing weights: encoder"):
            verify(own)

    def test_import_gives_a_model_that_knows_its_domain(self, official, tmp_path):
        out = tmp_path / "A.ckpt"
        import_official(official, out, "A")
        assert "domain:         A" in verify(out)
        source = load_checkpoint(out, run_config(RESUNET, image_size=512))
        theirs = load_checkpoint(official, run_config(RESUNET, image_size=512))
        assert all(
            torch.equal(a, b)
            for a, b in zip(source.model.state_dict().values(), theirs.model.state_dict().values(), strict=True)
        )
        with pytest.raises(UserError, match="its domain is A, but source=B"):
            load_checkpoint(out, run_config(RESUNET, image_size=512, source="B"))

    def test_import_never_overwrites_and_takes_official_files_only(self, official, own, tmp_path):
        with pytest.raises(UserError, match="exists: give another name"):
            import_official(official, own, "A")
        with pytest.raises(UserError, match="is a checkpoint of tta_bench already: use checkpoint="):
            import_official(own, tmp_path / "new.ckpt", "A")


class TestDescription:
    """What a checkpoint says of itself, without its weights."""

    @pytest.mark.parametrize("kind", ["own", "official"])
    def test_it_is_that_of_the_whole_checkpoint_and_no_weight_is_looked_at(self, tmp_path, monkeypatch, kind):
        path = tmp_path / "model.ckpt"
        if kind == "own":
            write(path, run_config())
        else:
            torch.save(official_state(), path)
        whole = vars(read_checkpoint(path))
        for place in ("own.shapes_of", "load.value_faults", "load.file_sha256"):
            monkeypatch.setattr(f"tta_bench.models.checkpoint.{place}", None)
        description = vars(read_description(path))
        assert read_description(path) is read_description(path), "once while the file stays as it is"
        assert description == {key: value for key, value in whole.items() if key not in ("sha256", "state")}

    def test_a_byte_of_a_weight_that_was_changed_hides_no_description_but_one_of_the_description_does(self, tmp_path):
        path = write(tmp_path / "model.ckpt", run_config())
        content = path.read_bytes()
        weight = content.index(b"/data/0") + 4096
        path.write_bytes(content[:weight] + bytes([content[weight] ^ 1]) + content[weight + 1 :])
        with pytest.raises(UserError, match="damaged"):
            read_checkpoint(path)
        assert read_description(path).domain == "A"
        word = content.index(b"min-max per image")
        path.write_bytes(content[:word] + b"M" + content[word + 1 :])
        with pytest.raises(UserError, match="damaged"):
            read_description(path)


def test_equal_models_are_equal_bytes_whoever_made_their_texts(tmp_path):
    config = run_config({**UNET, "branches": ["rotation"]})
    copy = json.loads(json.dumps(config.model.model_dump(mode="json")))
    files = write(tmp_path / "a.ckpt", config), write(tmp_path / "b.ckpt", config, architecture=copy)
    assert files[0].read_bytes() == files[1].read_bytes()
