from histojax.models.generators.srresnet import ResidualBlock, SRResNet
from tests.models.generators.measured import count, reach, shapes


def test_parameters_of_srresnet():
    block = count(shapes(ResidualBlock(activation="relu"), 64)["params"])
    assert block == 2 * 9 * 64 * 64 + 2 * 2 * 64 == 73_984
    # Head with bias; trunk without; two doublings to 256; tail; a slope a channel at every PReLU.
    head, trunk = 81 * 3 * 64 + 64, 9 * 64 * 64 + 2 * 64
    doublings, tail = 2 * (9 * 64 * 256 + 256), 81 * 64 * 3 + 3
    slopes = (1 + 16 + 2) * 64
    model = SRResNet()
    expected = head + 16 * block + trunk + doublings + tail + slopes
    assert count(shapes(model)["params"]) == expected


def test_halo_is_the_receptive_field():
    model = SRResNet(blocks=2, features=8, norm="none")
    assert reach(model) == model.halo
    assert model.stride == 1
