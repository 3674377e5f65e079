"""Small sets in the layouts in which they are published, made up by the tests."""

import numpy as np
import tifffile
from PIL import Image

GRADES = {
    "train_1": (1, " benign", " healthy"),
    "train_2": (2, " malignant", " moderately differentiated"),
    "train_3": (3, " malignant", " poorly differentiated"),
    "testA_1": (1, " benign", " adenomatous"),
    "testB_1": (4, " malignant", " moderately-to-poorly differentated"),
}


def picture(seed, height=40, width=48):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels)
    else:
        Image.fromarray(pixels).save(path)


def two_nuclei(height=40, width=48):
    """Label image of two nuclei, numbered 3 and 9, that touch at a corner."""
    labels = np.zeros((height, width), np.uint16)
    labels[4:10, 5:12] = 3
    labels[10:14, 12:20] = 9
    return labels


def square(y, x, size):
    """Corners (y, x) of a square of size x size pixel centres."""
    last = size - 1
    return [(y, x), (y, x + last), (y + last, x + last), (y + last, x)]


def aperio(path, regions):
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = "".join(
        f'<Region Id="{number}" Type="0"><Vertices>'
        + "".join(f'<Vertex X="{x:.6f}" Y="{y:.6f}"/>' for y, x in region)
        + "</Vertices></Region>"
        for number, region in enumerate(regions, 1)
    )
    path.write_text(
        '<Annotations MicronsPerPixel="0.252000"><Annotation Id="1"><Regions>'
        f"<RegionAttributeHeaders/>{drawn}</Regions></Annotation></Annotations>"
    )


MONUSEG = ("TCGA-AA-0001-01Z-00-DX1", "TCGA-AA-0001-01Z-00-DX2", "TCGA-BB-0002-01Z-00-DX1")


def monuseg(root, names=MONUSEG):
    """Training images of two patients; every image has two squares that overlap."""
    for seed, name in enumerate(names):
        save(root / "Tissue Images" / f"{name}.tif", picture(seed))
        aperio(root / "Annotations" / f"{name}.xml", [square(4, 5, 6), square(7, 8, 5)])
    return root


def tnbc(root):
    for slide in ("01", "02"):
        for image in ("1", "2"):
            name = f"{slide}_{image}.png"
            save(root / f"Slide_{slide}" / name, picture(int(slide) * 10 + int(image)))
            save(root / f"GT_{slide}" / name, (two_nuclei() > 0).astype(np.uint8) * 255)
    return root


def tcia(root, table=True):
    for number in (1, 2, 3):
        save(root / f"{number}_crop.png", picture(number))
        save(root / f"{number}_labeled_mask_corrected.png", two_nuclei())
        save(root / f"{number}_labeled_mask_corrected_rgb.png", picture(number))
    if table:
        (root / "1365patches_to_TCGA-ID_readme.txt").write_text(
            "The table gives each patch its slide.\nPatch-ID,CancerType,TCGA-ID\n"
            "1,brca,TCGA-A2-A0CL-01Z-00-DX1\n2,brca,TCGA-A2-A0CL-01Z-00-DX1\n"
            "3,luad,TCGA-05-4244-01Z-00-DX1\n"
        )
    return root


def glas(root):
    for seed, name in enumerate(GRADES):
        save(root / f"{name}.bmp", picture(seed))
        save(root / f"{name}_anno.bmp", two_nuclei().astype(np.uint8))
    (root / "Grade.csv").write_text(
        "name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)\n"
        + "".join(f"{name},{','.join(map(str, row))}\n" for name, row in GRADES.items())
    )
    return root


def nuinsseg(root):
    for organ in ("human bladder", "mouse liver"):
        name = organ.replace(" ", "_") + "_01"
        save(root / organ / "tissue images" / f"{name}.png", picture(len(organ)))
        save(root / organ / "label masks modify" / f"{name}.tif", two_nuclei())
        save(root / organ / "label masks" / f"{name}.tif", np.zeros((40, 48), np.uint16))
        save(root / organ / "mask binary" / f"{name}.png", np.zeros((40, 48), np.uint8))
    return root


def pannuke(root, folds=(1, 2, 3), patches=2):
    for fold in folds:
        images = np.stack([picture(10 * fold + k, 32, 32) for k in range(patches)])
        masks = np.zeros((patches, 32, 32, 6))
        masks[:, 2:6, 2:6, 0] = 4
        masks[:, 5:9, 5:9, 1] = 4
        masks[..., 5] = ~masks[..., :5].any(axis=-1)
        for kind, array in (("images", images.astype(np.float64)), ("masks", masks)):
            folder = root / f"Fold {fold}" / kind / f"fold{fold}"
            folder.mkdir(parents=True)
            np.save(folder / f"{kind}.npy", array)
        np.save(root / f"Fold {fold}/images/fold{fold}/types.npy", np.array(["Breast"] * patches))
    return root
