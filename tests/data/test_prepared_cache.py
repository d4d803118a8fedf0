"""The cache of prepared images: what is made anew, what is not, and its safety."""

import errno
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from made_pairs import configure, entries, faults, pair

from tta_bench.data import cache as cache_module
from tta_bench.data.prepare import prepare


def test_a_changed_file_is_read_again(root, cache, decoded):
    before = prepare(configure(root), ["P"], cache)["P"]
    pair(root, "P", "3.png", seed=77)
    after = prepare(configure(root), ["P"], cache)["P"]
    assert len(decoded) == 10
    assert before.fingerprint != after.fingerprint
    assert (before.images[3] != after.images[3]).any()


def test_touching_a_file_keeps_the_fingerprint(root, cache):
    before = prepare(configure(root), ["P"], cache)["P"]
    os.utime(root / "P/image/0.png", ns=(1, 1))
    assert prepare(configure(root), ["P"], cache)["P"].fingerprint == before.fingerprint


def test_another_size_is_another_entry(root, cache):
    prepare(configure(root), ["P"], cache)
    assert prepare(configure(root, image_size=96), ["P"], cache)["P"].images.shape == (5, 96, 96, 3)


def test_classes_change_the_fingerprint_but_not_the_cache(root, cache, decoded):
    plain = prepare(configure(root), ["P"], cache)["P"]
    named = prepare(configure(root, classes={"nucleus": (1,)}), ["P"], cache)["P"]
    assert len(decoded) == 5
    assert plain.fingerprint != named.fingerprint


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "images.npy").unlink(),
        lambda entry: (entry / "masks.npy").write_bytes((entry / "masks.npy").read_bytes()[:500]),
        lambda entry: (entry / "images.npy").write_bytes(b""),
        lambda entry: (entry / "index.json").write_text('{"image_names": ["0"'),
        lambda entry: (entry / "index.json").write_text("[]"),
        lambda entry: (entry / "index.json").unlink(),
        lambda entry: (entry / "index.json").write_text("[" * 100_000),
        lambda entry: (entry / "index.json").write_bytes((entry / "index.json").read_bytes().replace(b'"3"', b'"8"')),
        lambda entry: (entry / "index.json").write_bytes(b"\xff\xfe"),
        lambda entry: np.save(entry / "masks.npy", np.zeros((4, 64, 64), np.uint8)),
        lambda entry: np.save(entry / "masks.npy", np.load(entry / "masks.npy").astype(np.int16)),
        lambda entry: np.save(entry / "masks.npy", np.asfortranarray(np.load(entry / "masks.npy"))),
        lambda entry: flip(entry / "images.npy", 20),
        lambda entry: flip(entry / "images.npy", -5000),
        lambda entry: flip(entry / "masks.npy", -1),
        lambda entry: (shutil.rmtree(entry), entry.write_text("a file")),
    ],
)
def test_damaged_entry_is_made_anew_with_a_warning(root, cache, damage, caplog):
    before = prepare(configure(root), ["P"], cache)["P"]
    images, masks = np.array(before.images), np.array(before.masks)
    (entry,) = entries(cache)
    assert "damaged" not in caplog.text
    damage(entry)
    after = prepare(configure(root), ["P"], cache)["P"]
    np.testing.assert_array_equal(after.images, images)
    np.testing.assert_array_equal(after.masks, masks)
    assert (after.fingerprint, after.image_names) == (before.fingerprint, before.image_names)
    assert entries(cache) == [entry]
    assert caplog.text.count("are damaged: they count as missing") == 1


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_killed_run_leaves_nothing_that_counts(root, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "_flush", _killed)
        patch.setattr(cache_module, "_remove", lambda path: None)
        with pytest.raises(KeyboardInterrupt):
            prepare(configure(root), ["P"], cache)
    (leftover,) = entries(cache)
    assert (leftover / "images.npy").stat().st_size > 0
    assert len(prepare(configure(root), ["P"], cache)["P"]) == 5
    assert not leftover.exists()


def _killed(file):
    raise KeyboardInterrupt


def test_leftovers_go_by_locks_not_by_clocks(root, cache):
    """The next run removes what a dead process left, however young, and never what a live one works on, however old."""
    prepare(configure(root), ["P"], cache)
    for name in ("dead.part", "dead.part-damaged", "dead.part-x1y2", "live.part"):
        (cache / name).mkdir()
    (cache / "file.part").touch()
    os.utime(cache / "live.part", (0, 0))
    hold = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=1); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, cache / "live.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"1\n"
        prepare(configure(root), ["P"], cache)  # also when there is nothing to prepare
        assert sorted(path.name for path in entries(cache) if ".part" in path.name) == ["live.part"]
    finally:
        holder.communicate(b"\n")
    prepare(configure(root), ["P"], cache)
    assert not (cache / "live.part").exists()


def test_a_domain_is_prepared_by_one_process_at_a_time(root, cache, decoded):
    with ThreadPoolExecutor(4) as pool:  # locks of different threads exclude each other as those of processes do
        runs = [pool.submit(prepare, configure(root), ["P", "Q"], cache) for _ in range(4)]
    results = [run.result() for run in runs]
    assert sorted(decoded) == ["0", "0", "1", "1", "2", "2", "3", "4"], "each once"
    assert len({result["P"].fingerprint for result in results}) == 1
    for result in results:
        np.testing.assert_array_equal(result["Q"].images, results[0]["Q"].images)
    assert len(entries(cache)) == 2


class TestUnwritableCache:
    def test_a_file_in_its_place(self, root, tmp_path):
        (tmp_path / "outputs").touch()
        (sentence,) = faults(configure(root), ["P"], tmp_path / "outputs" / "cache")
        assert str(tmp_path / "outputs" / "cache") in sentence
        assert "results_root=DIR" in sentence

    def test_full_disk(self, root, cache, monkeypatch):
        def full(file, shape):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        (root / "Q/mask/0.png").unlink()
        monkeypatch.setattr(cache_module, "_write_header", full)
        sentences = faults(configure(root), ["Q", "P"], cache)
        assert "has no mask" in sentences[0]  # what is known already is told too
        assert "No space left on device" in sentences[1]
        assert "free space" in sentences[1]
        assert entries(cache) == []

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_read_only_cache_still_serves(self, root, cache):
        prepare(configure(root), ["P"], cache)
        cache.chmod(0o500)
        try:
            assert len(prepare(configure(root), ["P"], cache)["P"]) == 5
            assert "Permission denied" in faults(configure(root), ["Q"], cache)[0]
        finally:
            cache.chmod(0o700)
