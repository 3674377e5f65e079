"""What images are normalised to: a fit kept here under its name, or that of an image file."""

from pathlib import Path

from histojax.errors import UserError
from histojax.imaging.reader import read_image
from histojax.stain.normalization import SPARSITY, ColorFit, Fit, Method, StainFit, Unfit, fitted

DEFAULT = "TCGA-B0-5711"

# Measured on TCGA-B0-5711-01Z-00-DX1 (kidney) of the MoNuSeg training set, 1000 x 1000 px at 40x,
# to which Rahmon et al. (IEEE AIPR 2021) normalise all images: `fit` of the PNG by each method, to
# four decimals. Numbers about the image, not the image, which its licence keeps from being here.
_KIDNEY = ((0.5741, 0.7179, 0.3937), (0.2532, 0.8179, 0.5167))
KNOWN: dict[str, dict[str, Fit]] = {
    DEFAULT: {
        "spcn": StainFit(_KIDNEY, (2.8373, 1.3673), SPARSITY),
        "spcn_pseudo_inverse": StainFit(_KIDNEY, (2.8714, 1.3859), None),
        "macenko": StainFit(
            ((0.5684, 0.7207, 0.3970), (0.1402, 0.8283, 0.5424)), (3.0335, 1.0535), None
        ),
        "reinhard": ColorFit((59.7655, 27.2331, -10.4100), (18.5951, 8.2458, 6.4278)),
    }
}


def target_fit(target: str, method: Method) -> Fit:
    """The fit, by a method, of a target: a name in `KNOWN`, or the path of an image.

    Raises:
        UserError: for neither, an image that is no fit, or a known target of another sparsity.
    """
    if target in KNOWN:
        if method.name.startswith("spcn") and method.sparsity != SPARSITY:
            raise UserError(
                f"the fit of {target} is known for a sparsity of {SPARSITY}, and "
                f"{method.sparsity:g} is asked for: give the path of its image as the target"
            )
        return KNOWN[target][method.name]
    path = Path(target).expanduser()
    if not path.is_file():
        raise UserError(
            f"stain target {target!r} is neither an image file nor a known target: give the path "
            f"of an image, or {' or '.join(KNOWN)}"
        )
    try:
        return fitted([read_image(path)], method, name=target)
    except Unfit as reason:
        raise UserError(
            f"{target} cannot be a stain target, because {reason}: give an image of tissue in two "
            "stains"
        ) from reason
