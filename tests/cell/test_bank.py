"""Cells of a method with a bank: made of the source's training images, kept beside the checkpoint, seen by it alone."""

import logging
import shutil

import pytest
import torch

from tiny_cells import configure, execute, numbers, rows, summary
from tta_bench.cell import Cell
from tta_bench.cli import main
from tta_bench.launch.targets import with_targets
from tta_bench.offline import access, bank
from tta_bench.report.cells import read_cell

FDA = ("+method=fda", "method.donors=3", "target=A")


@pytest.fixture
def seen(monkeypatch):
    """Places of the source images that were read for banks."""
    read = []
    get = access.Images.__getitem__
    monkeypatch.setattr(access.Images, "__getitem__", lambda images, k: read.append(images.names[k]) or get(images, k))
    return read


def test_a_bank_is_made_once_of_the_training_images_and_kept_beside_the_checkpoint(root, seen, computed):
    config = configure(root, *FDA)
    execute(config)
    assert computed == ["no_adapt", "fda"]
    (file,) = root.glob("source_models/*/model.bank_amplitudes_only_2.2.pt")
    content = torch.load(file, weights_only=True)
    assert content["thumbnails"] is None
    assert content["amplitudes"].shape == (len(seen), 3, 13)
    held_out = 4 - len(seen)
    assert held_out >= 1
    assert len(set(seen)) == len(seen)
    assert summary(config)["bank"]
    assert "bank" not in summary(configure(root, "+method=no_adapt", "target=A"))
    seen.clear()
    first = numbers(config)
    execute(config)
    execute(configure(root, *FDA, "force=true"))
    assert (seen, computed) == ([], ["no_adapt", "fda", "no_adapt", "fda"])
    assert numbers(config) == first
    assert float(rows(config)[0]["dice"]) >= 0


def test_another_bank_makes_the_cell_stale_and_a_damaged_one_is_made_again(root, computed, caplog):
    config = configure(root, *FDA)
    execute(config)
    (file,) = root.glob("source_models/*/model.bank_*.pt")
    expected = file.read_bytes()
    file.write_bytes(expected[: len(expected) // 2])
    execute(config)
    assert file.read_bytes() == expected
    assert computed == ["no_adapt", "fda"]
    changed = bank._digest
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(bank, "_digest", lambda origin: changed({**origin, "more": 1}))
        execute(config)
    assert "because the bank of source images changed since" in caplog.text
    assert read_cell(Cell(with_targets(config), 0)).status == "done"


def test_a_checkpoint_brings_its_bank_to_where_the_source_images_are_not(root, tmp_path, capsys):
    expected = configure(root, *FDA)
    execute(expected)
    (folder,) = root.glob("source_models/*/")
    shutil.copytree(folder, tmp_path / "given")
    checkpoint = f"checkpoint={tmp_path / 'given/model.ckpt'}"
    images = tmp_path / "images"
    images.mkdir()
    torch.manual_seed(0)
    from PIL import Image

    Image.fromarray((torch.rand(64, 64, 3) * 255).byte().numpy()).save(images / "one.png")
    main(["predict", str(images), str(tmp_path / "out"), checkpoint, "+method=fda", "method.donors=3"])
    assert (tmp_path / "out/predictions.csv").exists()
    with pytest.raises(SystemExit):
        main(["predict", str(images), str(tmp_path / "other"), checkpoint, "+method=fda", "method.radius=3"])
    assert "needs a bank of source images, and there is none at" in capsys.readouterr().err
    given = configure(root, *FDA, checkpoint)
    execute(given)
    assert [row["dice"] for row in rows(given)] == [row["dice"] for row in rows(expected)]
