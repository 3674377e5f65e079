"""The main job with every nucleus its own label: joint training of a generator and USE-Net.

Source: the joint training of Juhong et al. 2023, with the maps and the watershed of USE-Net
(Rahmon et al. 2021) in the place of the Inception U-Net's mask. The stages are those of joint.py;
the second one is use_net.py. The best checkpoint is that of the best AJI.

    python -m histojax.main --config=configs/joint_use_net.py --config.data.source=folder:$MONUSEG

Not run at any size but smoke.
"""

from ml_collections import ConfigDict

from configs import joint, use_net


def get_config(size: str = "laptop") -> ConfigDict:
    """Sizes smoke, laptop, gpu; paper, of which there is no source, as the other configs."""
    config = joint.get_config(size, use_net)
    config.instances.watershed.update(use_net.FLOODED)  # of all stages
    return config
