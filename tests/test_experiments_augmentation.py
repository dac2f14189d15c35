"""Augmentation: shifted and mirrored images against a loop over pixels."""

import torch

from sparsemat.experiments.augmentation import AUGMENTATIONS, crop_and_flip


def test_an_image_is_shifted_and_mirrored_with_black_margins():
    images = torch.randint(1, 256, (6, 3, 5, 7), dtype=torch.uint8)
    torch.manual_seed(0)
    moved = crop_and_flip(6, margin=2)(images, torch.arange(6))
    torch.manual_seed(0)
    top, left = torch.randint(0, 5, (2, 6)).tolist()
    flipped = (torch.rand(6) < 0.5).tolist()
    assert len(set(flipped)) == 2
    for n in range(6):
        for row in range(5):
            for col in range(7):
                y, x = row + top[n] - 2, (6 - col if flipped[n] else col) + left[n] - 2
                inside = 0 <= y < 5 and 0 <= x < 7
                expected = images[n, :, y, x] if inside else torch.zeros(3, dtype=torch.uint8)
                assert torch.equal(moved[n, :, row, col], expected)


def test_a_part_of_the_batch_is_changed_as_in_the_whole():
    images = torch.randint(0, 256, (8, 1, 6, 6), dtype=torch.uint8)
    change = crop_and_flip(8)
    part = torch.tensor([1, 4, 6])
    every = torch.arange(8)
    assert torch.equal(change(images[part], part), change(images, every)[part])


def test_no_augmentation_changes_and_draws_nothing():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    images = torch.ones(2, 1, 3, 3)
    assert AUGMENTATIONS["none"](2)(images, torch.arange(2)) is images
    assert torch.equal(torch.rand(1), expected)
