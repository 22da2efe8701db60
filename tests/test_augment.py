"""Crops and flips: what may come out, how often, and what may not."""

import pytest
import torch

from lipsmooth.augment import AUGMENTATIONS, PADDING, crop_flip
from lipsmooth.recipe import Recipe


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_output_is_a_shifted_perhaps_mirrored_image():
    x = torch.rand(200, 2, 9, 7, generator=generator(1))
    found = crop_flip(x, generator())
    padded = torch.nn.functional.pad(x, [PADDING] * 4, mode="reflect")
    seen = set()
    for image, wide in zip(found, padded, strict=True):
        matches = [
            (flipped, row, column)
            for row in range(2 * PADDING + 1)
            for column in range(2 * PADDING + 1)
            for flipped in (False, True)
            if torch.equal(
                image.flip(2) if flipped else image,
                wide[:, row : row + 9, column : column + 7],
            )
        ]
        assert matches
        seen.update(matches)
    assert {row for _, row, _ in seen} == set(range(2 * PADDING + 1))
    assert {column for _, _, column in seen} == set(range(2 * PADDING + 1))
    assert {flipped for flipped, _, _ in seen} == {False, True}


def test_half_of_the_images_are_mirrored():
    # Along each row the pixel values rise; where they fall, the image was mirrored.
    x = torch.arange(32.0).expand(4000, 1, 32, 32)
    middle = crop_flip(x, generator())[:, 0, 16, 12:20]
    mirrored = (middle.diff(dim=1) < 0).all(1).sum().item()
    assert abs(mirrored - 2000) < 4 * 1000**0.5


def test_the_same_generator_gives_the_same_images():
    x = torch.rand(10, 3, 8, 8, generator=generator(1))
    again = crop_flip(x, generator(5))
    assert torch.equal(crop_flip(x, generator(5)), again)
    assert not torch.equal(crop_flip(x, generator(6)), again)


def test_images_without_room_for_a_shift_are_refused():
    with pytest.raises(ValueError, match=r"more than 4 × 4 pixels, got 4 × 8"):
        crop_flip(torch.zeros(1, 1, 4, 8), generator())


def test_a_recipe_names_its_augmentation():
    assert Recipe(sigma=0.1, augmentation="crop-flip").settings()["augmentation"]
    with pytest.raises(ValueError, match="none or crop-flip, got 'mixup'"):
        Recipe(sigma=0.1, augmentation="mixup")
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(AUGMENTATIONS["none"](x, generator()), x)
