"""Volumes and DICOM files written by their own libraries: orientation, order, spacing, window, cases."""

import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from sections import data_config
from tta_bench.data.decoders.base import decoder_of
from tta_bench.data.prepare import prepare
from tta_bench.data.readers.base import open_reader
from tta_bench.errors import UserError

nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")
sitk = pytest.importorskip("SimpleITK", reason="needs the extra medical")
pydicom = pytest.importorskip("pydicom", reason="needs the extra medical")

VOLUME = np.random.default_rng(0).integers(-500, 500, (70, 66, 5)).astype(np.int16)  # towards left, posterior, inferior
LPI = np.diag([-0.5, -0.7, -3.0, 1])


def nifti(path, volume=VOLUME, codes="LPI"):
    """Write a volume whose axes in the file lead where the letters say; it is the same volume in space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(volume, LPI)
    wanted = nibabel.orientations.axcodes2ornt(tuple(codes))
    have = nibabel.orientations.axcodes2ornt(("L", "P", "I"))
    image.as_reoriented(nibabel.orientations.ornt_transform(have, wanted)).to_filename(path)


@pytest.mark.parametrize("codes", ["LPI", "RAS", "LPS", "SRA", "PIR"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_slices_do_not_depend_on_the_order_of_the_axes_in_the_file(tmp_path, codes, axis, suffix):
    path = tmp_path / f"a{suffix}"
    nifti(tmp_path / "a.nii.gz", codes=codes)
    if not suffix.startswith(".nii"):
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")), str(path))
    elif suffix == ".nii":
        nifti(path, codes=codes)
    stack = decoder_of(path).read(path, axis, 10**6)
    np.testing.assert_array_equal(stack.values, np.moveaxis(VOLUME, axis, 0).swapaxes(1, 2))
    assert decoder_of(path).shape(path, axis) == stack.values.shape
    spacing = [0.5, 0.7, 3.0]
    columns, rows = (spacing[each] for each in range(3) if each != axis)
    np.testing.assert_allclose(stack.spacing, [spacing[axis], rows, columns], rtol=1e-6)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_mask_is_written_in_the_place_of_its_volume(tmp_path, suffix):
    path = tmp_path / "a.nii.gz"
    nifti(path, codes="SRA")
    if not suffix.startswith(".nii"):
        path = tmp_path / f"a{suffix}"
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")), str(path))
    mask = (decoder_of(path).read(path, 1, 10**6).values > 0).astype(np.uint8)
    written = tmp_path / f"m{suffix}"
    decoder_of(path).write_mask(written, path, mask, 1)
    np.testing.assert_array_equal(decoder_of(path).mask(written, 1, 10**6), mask)
    before, after = (sitk.ReadImage(str(each)) for each in (path, written))
    assert after.GetPixelID() == sitk.sitkUInt8
    for each in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(after, each)(), getattr(before, each)(), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.zeros((8, 8, 8, 3), np.float32), "axes"),
        (np.full((8, 8, 8), np.nan), "NaN"),
        (np.ones((8, 8, 8), complex), "complex"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, values, why):
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "a.nii")
    with pytest.raises(UserError, match=r"a\.nii") as caught:
        decoder_of(tmp_path / "a.nii").read(tmp_path / "a.nii", 2, 10**6)
    assert why in str(caught.value)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    nifti(tmp_path / "a.nii")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UserError, match=r"pip install 'tta-bench\[medical\]'"):
        decoder_of(tmp_path / "a.nii").shape(tmp_path / "a.nii", 2)


def section(root, **keys):
    return data_config(root=root, **keys)


def test_slices_of_a_volume_are_images_that_carry_their_case(tmp_path):
    for case in ("p2", "p1"):
        nifti(tmp_path / f"raw/A/image/{case}.nii.gz")
        nifti(tmp_path / f"raw/A/mask/{case}.nii.gz", (VOLUME > 0).astype(np.uint8), "RAS")
    domain = prepare(section(tmp_path / "raw"), ["A"], tmp_path / "cache", labelled=True)["A"]
    assert domain.cases == tuple((case, k) for case in ("p1", "p2") for k in range(5))
    assert domain.image_names[:2] == ("p1/0000", "p1/0001")
    np.testing.assert_allclose(domain.spacings[0], (3, 0.7, 0.5), rtol=1e-6)
    # The levels are those of the whole volume, so that slices stay comparable.
    whole = (VOLUME.astype(float) - VOLUME.min()) / np.ptp(VOLUME) * 255
    assert abs(domain.images[3].mean() - whole[..., 3].mean()) < 1
    assert 0.4 < domain.mask(3).mean() < 0.6
    # Other slices and other windows are other images.
    prints = {domain.fingerprint}
    for keys in ({"axis": 0}, {"intensity": {"window": [-100, 100]}}):
        prints.add(prepare(section(tmp_path / "raw", **keys), ["A"], tmp_path / "cache")["A"].fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("change", ["none", "spacing", "origin", "direction"])
def test_headers_of_image_and_mask_may_not_contradict_each_other(tmp_path, change, suffix):
    """In another order of axes a mask is the same; elsewhere in the patient it is another's, or its header is."""
    nifti(tmp_path / "A/image/x.nii.gz")
    nifti(tmp_path / "A/mask/x.nii.gz", (VOLUME > 0).astype(np.uint8), "SRA")
    file = nibabel.load(tmp_path / "A/mask/x.nii.gz")
    affine = file.affine.copy()
    if change == "spacing":
        affine[:3, :3] *= 2
    elif change == "origin":
        affine[:3, 3] += 100
    elif change == "direction":
        affine[:, :2] *= -1
    nibabel.Nifti1Image(np.asanyarray(file.dataobj), affine).to_filename(tmp_path / "A/mask/x.nii.gz")
    if suffix != ".nii.gz":
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "A/mask/x.nii.gz")), str(tmp_path / f"A/mask/x{suffix}"))
        (tmp_path / "A/mask/x.nii.gz").unlink()
    record = open_reader(section(tmp_path)).records("A")[2]
    if change == "none":
        np.testing.assert_array_equal(record.read(64).mask, (VOLUME[..., 2] > 0).T)
    else:
        with pytest.raises(UserError, match="lie at different places in the patient"):
            record.read(64)


def test_a_mask_of_fewer_slices_is_refused(tmp_path):
    nifti(tmp_path / "A/image/p.nii")
    nifti(tmp_path / "A/mask/p.nii", (VOLUME[..., :3] > 0).astype(np.uint8))
    record = open_reader(section(tmp_path)).records("A")[4]
    with pytest.raises(UserError, match="3 slices"):
        record.read(64)


def dicom(
    path, values, *, place=0.0, photometric="MONOCHROME2", window=None, slope=1, intercept=0, codec=None, content=None
):
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    values = np.asarray(values, np.uint8 if values.dtype == np.uint8 else np.uint16)
    bits = 8 * values.itemsize
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel, data.PhotometricInterpretation = values[0, 0].size, photometric
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, 0
    if values.ndim == 3:
        data.PlanarConfiguration = 0
    else:
        data.RescaleSlope, data.RescaleIntercept, data.RescaleType = slope, intercept, "HU"
    data.PixelSpacing, data.SliceThickness = [0.7, 0.5], 2.5
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, place], [1, 0, 0, 0, 1, 0]
    if window is not None:
        data.WindowCenter, data.WindowWidth = window
    data.PixelData = values.tobytes()
    if codec is not None and content is None:
        data.compress(codec)
    elif codec is not None:
        meta.TransferSyntaxUID, data.PixelData = codec, pydicom.encaps.encapsulate([content])
    data["PixelData"].VR = "OW" if codec is None and bits == 16 else "OB"
    data.save_as(path, enforce_file_format=True)


def test_dicom_has_units_a_window_and_an_inverted_form(tmp_path):
    stored = np.arange(64 * 66).reshape(64, 66)
    dicom(tmp_path / "a.dcm", stored, slope=2, intercept=-1000, window=(50, 401))
    stack = decoder_of(tmp_path / "a.dcm").read(tmp_path / "a.dcm", 2, 10**6)
    np.testing.assert_array_equal(stack.values[0], 2 * stored - 1000)
    assert stack.window == (-150.5, 249.5)
    assert stack.spacing == (2.5, 0.7, 0.5)
    dicom(tmp_path / "b.dcm", stored, photometric="MONOCHROME1")
    assert decoder_of(tmp_path / "b.dcm").read(tmp_path / "b.dcm", 2, 10**6).inverted


def test_a_folder_of_dicom_files_is_a_case_in_the_order_of_their_places(tmp_path):
    places = {"c.dcm": 10, "a.dcm": 0, "b.dcm": 20}
    for name, place in places.items():
        dicom(tmp_path / "A/image/p7" / name, np.arange(64 * 64).reshape(64, 64) + place, place=place)
        dicom(tmp_path / "A/mask/p7" / name, np.eye(64))
    records = open_reader(section(tmp_path)).records("A")
    assert [(record.name, record.case, record.slice) for record in records] == [
        ("p7/b", "p7", 0),
        ("p7/c", "p7", 1),
        ("p7/a", "p7", 2),
    ]
    assert records[0].read(64).mask.sum() == 64


def encoded(values, kind, **options):
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


GREY = np.add.outer(np.arange(64), np.arange(66)).astype(np.uint8)
COLOURS = np.stack([GREY, 255 - GREY, GREY // 2], axis=-1)
DEEP = GREY.astype(np.uint16) * 500 + 7


@pytest.mark.parametrize(
    ("values", "codec", "content", "photometric", "tolerance"),
    [
        (DEEP, "RLELossless", None, "MONOCHROME2", 0),
        (COLOURS, "RLELossless", None, "RGB", 0),
        (DEEP, "JPEG2000Lossless", encoded(DEEP, "JPEG2000", no_jp2=True), "MONOCHROME2", 0),
        (COLOURS, "JPEG2000Lossless", encoded(COLOURS, "JPEG2000", no_jp2=True, mct=1), "YBR_RCT", 0),
        (GREY, "JPEGBaseline8Bit", encoded(GREY, "JPEG", quality=95), "MONOCHROME2", 2),
        (COLOURS, "JPEGBaseline8Bit", encoded(COLOURS, "JPEG", quality=95), "YBR_FULL_422", 6),
    ],
)
def test_compressed_dicom_is_read_and_as_a_mask_only_without_loss(
    tmp_path, values, codec, content, photometric, tolerance
):
    path = tmp_path / "a.dcm"
    dicom(path, values, photometric=photometric, codec=getattr(pydicom.uid, codec), content=content)
    found = decoder_of(path).read(path, 2, 10**6).values[0]
    assert np.abs(found.astype(int) - values).max() <= tolerance
    with pytest.raises(UserError, match=r"a\.dcm") as caught:
        decoder_of(path).mask(path, 2, 10**6)
    assert ("export the masks anew" in str(caught.value)) == (codec == "JPEGBaseline8Bit")


@pytest.mark.parametrize(
    ("codec", "remedy"),
    [
        ("JPEGLosslessSV1", "pip install pylibjpeg pylibjpeg-libjpeg, or"),
        ("JPEGLSLossless", "pip install pylibjpeg pylibjpeg-libjpeg, or"),
        ("HTJ2KLossless", "pip install pylibjpeg pylibjpeg-openjpeg, or"),
        ("RLELossless", "pip install pylibjpeg pylibjpeg-rle, or"),  # which pydicom reads too, but not a damaged one
        ("MPEG2MPML", "save it uncompressed"),
    ],
)
def test_a_compression_that_is_not_read_names_what_decodes_it(tmp_path, codec, remedy):
    if importlib.util.find_spec("pylibjpeg"):
        pytest.skip("it is installed")
    path = tmp_path / "a.dcm"
    dicom(path, DEEP, codec=getattr(pydicom.uid, codec), content=b"\xff\xd8" + bytes(98))
    with pytest.raises(UserError, match=r"a\.dcm: its pixels cannot be decompressed") as caught:
        decoder_of(path).read(path, 2, 10**6)
    assert str(caught.value).partition("): ")[2].startswith(remedy)


def test_a_palette_of_dicom_is_shown_in_its_colours_and_is_no_mask(tmp_path):
    path, table = tmp_path / "a.dcm", np.random.default_rng(0).integers(0, 2**16, (3, 256)).astype(np.uint16)
    dicom(path, GREY, photometric="PALETTE COLOR")
    dataset = pydicom.dcmread(path)
    for name, entries in zip(("Red", "Green", "Blue"), table, strict=True):
        dataset.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        dataset.add_new(f"{name}PaletteColorLookupTableData", "OW", entries.tobytes())
    dataset.save_as(path)
    np.testing.assert_array_equal(decoder_of(path).read(path, 2, 10**6).values[0], table.T[GREY])
    with pytest.raises(UserError, match="colours"):
        decoder_of(path).mask(path, 2, 10**6)
