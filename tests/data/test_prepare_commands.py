"""The commands built on preparation: check, cache and preview."""

import numpy as np
import pytest
from made_pairs import configure, pair
from PIL import Image
from rich.console import Console

from tta_bench.cli.data_cache import cache_command
from tta_bench.cli.data_check import check
from tta_bench.cli.data_preview import preview
from tta_bench.data.prepare import prepare
from tta_bench.errors import UserError


class TestCommands:
    def shown(self, table):
        console = Console(width=200)
        with console.capture() as capture:
            console.print(table)
        return capture.get()

    def test_check(self, root, cache):
        pair(root, "P", "9.png", size=(70, 60), values=(1,))
        (root / "Q/mask/0.png").unlink()
        table, sentences = check(configure(root), ["P", "Q"], cache)
        text = self.shown(table)
        assert "60x70 to 80x96" in text
        assert "foreground, % of area" in text
        area = 100 * np.mean(prepare(configure(root), ["P"], cache)["P"].masks == 1)
        assert f"{area:.2f}" in text
        assert "Q/image/0.png has no mask" in text
        assert len(sentences) == 1
        assert "has no mask" in sentences[0]

    def test_check_warns_of_empty_and_full_classes(self, root, cache, caplog):
        pair(root, "R", "0.png", values=(1,))
        pair(root, "R", "1.png", values=(1, 3))
        classes = {"disc": (1, 3), "cup": (2,), "rim": (3,)}
        check(configure(root, classes=classes), ["R"], cache)
        assert "domain 'R': class 'disc' covers every pixel of all 2 masks" in caplog.text
        assert "domain 'R': class 'cup' covers no pixel of all 2 masks" in caplog.text
        assert "'rim'" not in caplog.text

    def test_cache(self, root, cache):
        domains = prepare(configure(root), ["P", "Q"], cache)
        text = self.shown(cache_command(configure(root), ["P", "Q"], cache))
        assert domains["P"].fingerprint in text
        assert domains["Q"].fingerprint in text

    def test_preview(self, root, cache, tmp_path, decoded):
        path = tmp_path / "pictures" / "preview.png"
        preview(configure(root), ["P", "Q"], cache, path, per_domain=4)
        assert len(decoded) == len(prepare(configure(root), ["P", "Q"], cache)["P"]) + 3  # once
        with Image.open(path) as image:
            assert image.height > 2 * 64
            assert image.width > 4 * 64

    def test_a_preview_outlines_tiles_on_the_whole_image(self, tmp_path, cache):
        pair(tmp_path / "raw", "P", "0.png", size=(100, 64), values=(1,))
        path = tmp_path / "preview.png"
        preview(configure(tmp_path / "raw", fit="tile"), ["P"], cache, path, per_domain=2)
        with Image.open(path) as image:
            outlined = (np.asarray(image) == (255, 200, 0)).all(-1)
        rows = np.flatnonzero(outlined.sum(1) > 50)
        assert np.ptp(rows) == 100 - 1  # from the first tile to the last
        assert len(rows) == 2 * 2 * 2  # lines of two tiles, two pixels each

    def test_preview_refuses(self, root, cache, tmp_path):
        with pytest.raises(UserError, match=r"preview\.svg"):
            preview(configure(root), ["P"], cache, tmp_path / "preview.svg")
        (root / "P/mask/0.png").unlink()
        (fault,) = preview(configure(root), ["P"], cache, tmp_path / "preview.png")
        assert "has no mask" in fault
        assert not (tmp_path / "preview.png").exists()
