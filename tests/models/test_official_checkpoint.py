"""The checkpoint of the authors of GraTa, as their code wrote it."""

import json
from pathlib import Path

import pytest
import torch
from checkpoints import RESUNET, UNET, official_state, run_config

from tta_bench.errors import UserError
from tta_bench.models.checkpoint import from_official, load_checkpoint, to_official
from tta_bench.models.checkpoint.official import OFFICIAL_BRANCHES, OFFICIAL_PREFIXES
from tta_bench.models.networks.resunet34 import ResUNet
from tta_bench.schema import RunConfig


class TestOfficialFormat:
    def config(self, branches=(), **data) -> RunConfig:
        return run_config({**RESUNET, "branches": list(branches)}, **{"image_size": 512, **data})

    def test_every_weight_arrives(self, official):
        source = load_checkpoint(official, self.config(OFFICIAL_BRANCHES))
        torch.manual_seed(0)
        expected = ResUNet(2, branches=OFFICIAL_BRANCHES).eval()
        images = torch.rand(1, 3, 64, 64)
        assert torch.equal(source.model(images), expected(images))
        for name in OFFICIAL_BRANCHES:
            assert torch.equal(source.model.branch(name, images), expected.branch(name, images))
        assert source.domain == "A"
        assert source.dice_in_domain is None

    def test_names_are_those_of_the_authors_file(self):
        shapes = Path(__file__).parents[2].parent / "shared" / "specs" / "official_state_dict.json"
        if not shapes.exists():
            pytest.skip("the authors' list of keys and shapes is not here")
        expected = json.loads(shapes.read_text())
        assert {key: list(value.shape) for key, value in official_state().items()} == expected

    def test_names_map_back_and_forth(self):
        keys = [key for key in official_state() if not key.startswith("res.fc.")]
        assert [to_official(from_official(key)) for key in keys] == keys
        assert all(any(key.startswith(theirs) for key in keys) for theirs, _ in OFFICIAL_PREFIXES)

    def test_drops_branches_that_are_not_asked_for(self, official):
        model = load_checkpoint(official, self.config(["rotation"])).model
        assert list(model.branches) == ["rotation"]

    @pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", None])
    def test_accepts_wrappers_and_parallel_prefixes(self, tmp_path, wrapper):
        path = tmp_path / "m.pth"
        state = {f"module.{key}": value for key, value in official_state().items()}
        torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
        assert load_checkpoint(path, self.config()).sha256

    def test_warns_at_another_image_size_than_the_authors(self, official, caplog):
        load_checkpoint(official, self.config())
        assert not caplog.records
        load_checkpoint(official, self.config(image_size=256))
        assert "its authors used 512 pixels, data.image_size=256" in caplog.text

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("up1.bn.weight"), "is not the GraTa .*missing weights: up1.bn.weight"),
            (lambda s: s.update({"recon9.bn.weight": torch.zeros(1)}), "unexpected weights: recon9.bn.weight"),
            (
                lambda s: s.update({"seg_head.bias": torch.zeros(3)}),
                r"wrong shapes: seg_head.bias \[3\] instead of \[2\]",
            ),
            (lambda s: s["up5.bias"].fill_(float("inf")), "not finite .* in up5.bias"),
        ],
    )
    def test_is_strict(self, tmp_path, change, message):
        state = official_state()
        change(state)
        torch.save(state, tmp_path / "m.pth")
        with pytest.raises(UserError, match=message):
            load_checkpoint(tmp_path / "m.pth", self.config())

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            (run_config(UNET), "its network is resunet34, but model=unet"),
            (run_config(RESUNET, classes={"nuclei": [1]}), "its classes are disc, cup, but data.classes are nuc"),
        ],
    )
    def test_refuses_another_network_and_other_classes(self, official, asked, message):
        with pytest.raises(UserError, match=message):
            load_checkpoint(official, asked)
