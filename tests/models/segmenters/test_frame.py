from histojax.models.segmenters import frame


def test_the_halo_is_the_farthest_reach_of_any_phase():
    # 3 px back and 5 forward from every phase: 5, rounded up to the stride of 4.
    assert frame.halo(4, lambda pixel: (pixel - 3, pixel + 5)) == 8
    # All phases see px -1 to 4, which lie 4 from the last and the first of them.
    assert frame.halo(4, lambda pixel: (-1, 4)) == 4
    assert frame.halo(1, lambda pixel: (pixel, pixel)) == 0
