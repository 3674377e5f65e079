import dataclasses

import numpy as np
import pytest

from histojax.mosaic import placement
from histojax.mosaic.placement import Link


def link(first, second, shift, height=20.0):
    ties = shift / 2 + np.array([-40 - 30j, -40 + 30j, 40 - 30j, 40 + 30j])
    return Link(first, second, shift, 0.0, height, 0.9, 0.3, (ties, ties - shift))


def grid_links(rows, columns, step=200):
    """Links of a grid to the right and downwards, and the true centers."""
    places = {
        row * columns + column: step * (row + 1j * column)
        for row in range(rows)
        for column in range(columns)
    }
    pairs = [(k, k + 1) for k in places if (k + 1) % columns] + [
        (k, k + columns) for k in places if k + columns in places
    ]
    return [link(i, j, places[j] - places[i]) for i, j in pairs], np.array(list(places.values()))


def off(layout, true):
    difference = layout.centers - true
    return np.abs(difference - difference.mean())


@pytest.mark.faults
@pytest.mark.parametrize("place", [0, 9, 20])
def test_one_false_link_of_a_grid_moves_nothing_and_is_named(place):
    links, true = grid_links(5, 5)
    bad = links[place]
    # A corner has but two links: only how sure they are says which is false.
    false = link(bad.first, bad.second, bad.shift + 40, height=12.0)
    links[place] = false
    layout = placement.lay_out([(250, 250)] * 25, links)
    assert off(layout, true).max() < 0.1
    named = [k for k in layout.links if k.reason]
    assert [(k.first, k.second) for k in named] == [(bad.first, bad.second)]
    assert "40 px off" in named[0].reason
    assert named[0].residual == pytest.approx(40, abs=1)


def test_small_errors_are_shared_and_reported():
    # Round a square the shifts add up to 2 px: least squares gives each link a quarter.
    links = [link(0, 1, 100j), link(1, 3, 100 + 0j), link(0, 2, 100 + 0j), link(2, 3, 102j)]
    layout = placement.lay_out([(150, 150)] * 4, links)
    assert [k.residual for k in layout.links] == pytest.approx([0.5] * 4, abs=0.02)
    assert all(not k.reason for k in layout.links)


def test_a_push_of_six_pixels_is_named_at_its_seam():
    links, _ = grid_links(3, 3)
    links[2] = link(links[2].first, links[2].second, links[2].shift + 6)
    layout = placement.lay_out([(250, 250)] * 9, links)
    assert [k.reason != "" for k in layout.links] == [n == 2 for n in range(len(links))]


def test_groups_are_the_connected_parts():
    links = [link(0, 1, 100j), link(3, 4, 50 + 0j)]
    groups = placement.lay_out([(150, 150)] * 5, links).groups
    assert groups[0] == groups[1] != groups[2]
    assert groups[3] == groups[4] != groups[0]


def test_turns_are_found_and_invisible_ones_are_none():
    turn = np.deg2rad(1.0)
    links, true = grid_links(2, 3)
    # Field 4 is turned: seen from the others by +1 degree, and the others seen from it by -1.
    turned = []
    for one in links:
        if one.second == 4:
            seconds = np.exp(-1j * turn) * (one.ties[0] - one.shift)
            one = dataclasses.replace(one, angle=turn, ties=(one.ties[0], seconds))
        elif one.first == 4:
            firsts = np.exp(-1j * turn) * one.ties[0]
            shift = np.exp(-1j * turn) * one.shift
            one = dataclasses.replace(one, angle=-turn, shift=shift, ties=(firsts, one.ties[1]))
        turned.append(one)
    layout = placement.lay_out([(250, 250)] * 6, turned)
    expected = np.array([0, 0, 0, 0, turn, 0])
    np.testing.assert_allclose(layout.angles, expected, atol=1e-6)
    assert off(layout, true).max() < 0.01


def test_the_weakest_link_between_two_fields_lies_on_their_surest_way():
    links = [link(0, 1, 1j, 30), link(1, 2, 1j, 9), link(0, 2, 2j, 8), link(2, 3, 1j, 30)]
    assert placement.weakest_between(0, 3, links, 4) is links[1]
