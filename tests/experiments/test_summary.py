import pathlib

from histojax.experiments import summary
from tests import tiny

RUN = pathlib.Path("runs/x")
FILES = "report: runs/x/report.html, all scores: runs/x/summary.json"


def closing(name, **means):
    metrics = {key: {"mean": mean} for key, mean in means.items()}
    return summary.closing_lines({"name": name, "metrics": metrics}, RUN)


def test_a_joint_run_closes_with_its_scores_and_the_baseline():
    assert closing(
        "joint",
        psnr_rgb_bicubic=27.514,
        psnr_rgb_joint=29.996,
        dice_otsu=0.5,
        dice_bicubic_to_s=0.8694,
        dice_joint=0.8916,
        dice_hr_to_joint=0.9,
        aji_joint=0.61,
    ) == [
        "image: PSNR RGB 30.00 dB in the joint image, 27.51 dB in the bicubic image",
        "nuclei: Dice 0.892 in the joint image, 0.869 in the bicubic image; AJI 0.610 in the joint "
        "image",
        FILES,
    ]


def test_a_segmenter_closes_with_the_real_image():
    assert closing("unet", dice_otsu=0.5, dice_hr_to_s=0.8, dice_bicubic_to_s=0.7)[0] == (
        "nuclei: Dice 0.800 in the real image, 0.700 in the bicubic image"
    )
    assert closing("pyramid", dice_otsu=0.5, dice_hr_to_pyramid=0.8)[0] == (
        "nuclei: Dice 0.800 in the real image, 0.500 by Otsu's threshold"
    )
    assert closing("generator", dice_otsu=0.5) == [FILES]


def test_the_next_command_is_for_what_the_run_does():
    start = "next: python -m histojax."
    assert summary.next_command(tiny.config("joint"), RUN) == (
        f"{start}predict --workdir=runs/x --input=PATH --output=DIR"
    )
    assert summary.next_command(tiny.config("pyramid"), RUN) == (
        f"{start}synthesize --workdir=runs/x --masks=PATH --output=DIR"
    )
