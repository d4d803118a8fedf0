"""Small trees with the names and codings of the real releases."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tta_bench.data.recipes.recipe import load_recipe

nibabel = pytest.importorskip("nibabel", reason="needs the extra 'medical'")


SIZE = (96, 120)
"""Height and width of the made photographs."""


CENTRE = (40, 70)
"""Row and column of the middle of the made discs."""


def photograph(path, size=SIZE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, *path.name.encode()]).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC).save(path, quality=95)


def circle(radius, size=SIZE, centre=CENTRE):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def numbers():
    """Background 0, rim 1, cup 2."""
    return circle(20).astype(int) + circle(8)


def drishti_gs(root):
    top = root / "Drishti-GS1_files/Drishti-GS1_files"
    for half, folder, names in (("Training", "GT", ("002", "004")), ("Test", "Test_GT", ("001",))):
        for name in (f"drishtiGS_{number}" for number in names):
            photograph(top / half / "Images/GLAUCOMA" / f"{name}.png")
            for kind, radius in (("ODseg", 20), ("cupseg", 8)):
                # 1 to 4 experts, each a little smaller than the one before
                soft = np.select([circle(radius - k) for k in (6, 4, 2, 0)], [255, 191, 128, 64])
                picture(top / half / folder / name / "SoftMap" / f"{name}_{kind}Softmap.png", soft)
    return {"Drishti_GS": ["drishtiGS_002", "drishtiGS_004", "drishtiGS_001"]}


def rim_one_r3(root):
    for group, names in (("Healthy", ("N-1-L", "N-2-R")), ("Glaucoma and suspects", ("G-1-L", "S-1-L"))):
        for name in names:
            top = root / "RIM-ONE r3" / group
            photograph(top / "Stereo Images" / f"{name}.jpg", (SIZE[0], 2 * SIZE[1]))
            for kind, radius in (("Disc", 20), ("Cup", 8)):
                whole = np.hstack([circle(radius), np.zeros(SIZE)]) * 255
                picture(top / "Average_masks" / f"{name}-{kind}-Avg.png", whole)
                picture(top / "Expert1_masks" / f"{name}-1-{kind}-exp1.png", whole)
                picture(top / "Expert2_masks" / f"{name}-{kind}-exp2.png", whole)
    return {"RIM_ONE_r3": ["G-1-L", "N-1-L", "N-2-R", "S-1-L"]}


def rim_one_dl(root):
    for partition in ("randomly", "by_hospital"):
        for split, group, name in (
            ("training_set", "normal", "r1_Im001"),
            ("training_set", "glaucoma", "r2_Im002"),
            ("test_set", "glaucoma", "r3_G-1-L"),
        ):
            photograph(root / f"RIM-ONE_DL_images/partitioned_{partition}/{split}/{group}/{name}.png")
            for kind, radius in (("Disc", 20), ("Cup", 8)):
                mask = root / f"RIM-ONE_DL_reference_segmentations/{group}/{name}-1-{kind}-T.png"
                picture(mask, circle(radius) * 255)
    return {"RIM_ONE_DL": ["r1_Im001", "r2_Im002", "r3_G-1-L"]}


def refuge(root):
    shades = np.array([255, 128, 0])[numbers()]
    for image, mask in (
        ("Training400/Glaucoma/g0001", "Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001"),
        ("Training400/Non-Glaucoma/n0001", "Annotation-Training400/Disc_Cup_Masks/Non-Glaucoma/n0001"),
        ("REFUGE-Validation400/V0001", "REFUGE-Validation400-GT/Disc_Cup_Masks/V0001"),
        ("Test400/T0001", "REFUGE-Test-GT/Disc_Cup_Masks/G/T0001"),
    ):
        photograph(root / f"{image}.jpg")
        picture(root / f"{mask}.bmp", shades)
    return {"REFUGE": ["g0001", "n0001"], "REFUGE_Valid": ["V0001", "T0001"]}


def origa(root):
    for name in ("001", "002"):
        photograph(root / f"ORIGA/ORIGA/Images/{name}.jpg")
        photograph(root / f"ORIGA/ORIGA/Images_Square/{name}.jpg")
        (root / "ORIGA/ORIGA/Semi-automatic-annotations").mkdir(parents=True, exist_ok=True)
        savemat(root / f"ORIGA/ORIGA/Semi-automatic-annotations/{name}.mat", {"mask": numbers().astype(np.uint8)})
    return {"ORIGA": ["001", "002"]}


def outline(radius):
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    return np.stack([CENTRE[1] + radius * np.cos(angles), CENTRE[0] + radius * np.sin(angles)], axis=1)


def g1020(root):
    for number in (0, 1):
        photograph(root / f"G1020/Images/image_{number}.jpg")
        shapes = [{"label": "disc", "points": outline(20).tolist()}, {"label": "cup", "points": outline(8).tolist()}]
        (root / f"G1020/Images/image_{number}.json").write_text(json.dumps({"shapes": shapes}))
    return {"G1020": ["image_0", "image_1"]}


def papila(root):
    for name in ("RET002OD", "RET002OS"):
        photograph(root / f"PapilaDB-PAPILA/FundusImages/{name}.jpg")
        for kind, expert in itertools.product(("disc", "cup"), (1, 2)):
            path = root / f"PapilaDB-PAPILA/ExpertsSegmentations/Contours/{name}_{kind}_exp{expert}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savetxt(path, outline({"disc": 20, "cup": 8}[kind] - 2 * (expert - 1)))
    return {"PAPILA": ["RET002OD", "RET002OS"]}


def volume(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 1.5, 8, 1])), path)


def scan(path, mask_path, codes, moments=None, seed=0):
    """Four slices of 64 x 72 voxels, labelled in the second and the third, in two of the moments."""
    labels = np.zeros((64, 72, 4), np.uint8)
    for index, code in enumerate(codes):
        labels[20 + 5 * index : 50 - 5 * index, 20:50, 1:3] = code
    image = np.random.default_rng(seed).normal(100, 30, (64, 72, 4)).astype(np.float32) + 50 * labels
    if moments:
        labels = np.stack([labels if moment in (0, 2) else 0 * labels for moment in range(moments)], axis=3)
        image = np.stack([image] * moments, axis=3)
    volume(path, image.astype(np.float32))
    volume(mask_path, labels)


def msd(root):
    top = root / "Task05_Prostate"
    scan(top / "imagesTr/prostate_00.nii.gz", top / "labelsTr/prostate_00.nii.gz", (1, 2))
    image = np.random.default_rng(1).normal(0, 1, (64, 72, 4, 2)).astype(np.float32)  # T2 and ADC
    volume(top / "imagesTr/prostate_00.nii.gz", image)
    (top / "imagesTr/._prostate_00.nii.gz").write_bytes(b"left by macOS")
    volume(top / "imagesTs/prostate_03.nii.gz", image)
    (top / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "PZ", "2": "TZ"}}))
    return {"Task05_Prostate": ["prostate_00_001", "prostate_00_002"]}


def prostate(root):
    for site, ending in (("RUNMC", "segmentation"), ("HK", "Segmentation")):
        scan(root / f"{site}/Case00.nii.gz", root / f"{site}/Case00_{ending}.nii.gz", (1, 2))
    return {"HK": ["Case00_001", "Case00_002"], "RUNMC": ["Case00_001", "Case00_002"]}


def mnms(root):
    for place, code in (("Training/Labeled", "A0S9V9"), ("Testing", "B1K2P5")):
        top = root / "OpenDataset" / place / code
        scan(top / f"{code}_sa.nii.gz", top / f"{code}_sa_gt.nii.gz", (3, 2, 1), moments=4)
    volume(root / "OpenDataset/Training/Unlabeled/C0/C0_sa.nii.gz", np.ones((64, 64, 2, 2), np.float32))
    rows = ["External code,VendorName,Vendor,Centre,ED,ES", "A0S9V9,Siemens,A,1,0,2", "B1K2P5,Philips,B,2,0,2"]
    table = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"
    (root / "OpenDataset" / table).write_text("\n".join(rows))
    return {v: [f"{c}_t{t:02d}_{s:03d}" for t in (0, 2) for s in (1, 2)] for v, c in (("A", "A0S9V9"), ("B", "B1K2P5"))}


def acdc(root):
    top = root / "database/training/patient001"
    for frame in ("01", "12"):
        name = f"patient001_frame{frame}"
        scan(top / f"{name}.nii.gz", top / f"{name}_gt.nii.gz", (1, 2, 3), seed=int(frame))
    volume(top / "patient001_4d.nii.gz", np.ones((64, 64, 2, 2), np.float32))
    return {"ACDC": [f"patient001_frame{frame}_{number:03d}" for frame in ("01", "12") for number in (1, 2)]}


def kvasir_seg(root):
    names = ["cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4"]
    for name in names:
        photograph(root / f"Kvasir-SEG/images/{name}.jpg")
        (root / "Kvasir-SEG/masks").mkdir(parents=True, exist_ok=True)
        Image.fromarray((circle(20) * 255).astype(np.uint8)).convert("RGB").save(root / f"Kvasir-SEG/masks/{name}.jpg")
    return {"Kvasir_SEG": names}


def cvc_clinicdb(root):
    for name in ("1", "2"):
        photograph(root / f"CVC-ClinicDB/Original/{name}.tif")
        picture(root / f"CVC-ClinicDB/Ground Truth/{name}.tif", circle(20) * 255)
    return {"CVC_ClinicDB": ["1", "2"]}


TREES = [
    *(drishti_gs, rim_one_r3, rim_one_dl, refuge, origa, g1020, papila),
    *(msd, prostate, mnms, acdc, kvasir_seg, cvc_clinicdb),
]


def recipe_for(name):
    """A recipe with a region that fits the small photographs."""
    changes = ["crop.pixels=64"] if load_recipe(name).crop else []
    return load_recipe(name, changes)


def files_below(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
