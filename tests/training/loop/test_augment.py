import torch

from kfdeploy.training.loop.augment import crop_and_flip, draws

IMAGES = torch.arange(6 * 5 * 5 * 3, dtype=torch.int64).remainder(251).to(torch.uint8).view(6, 5, 5, 3)
INDEX = torch.tensor([3, 1, 4, 0, 5, 9])


def test_a_view_depends_on_seed_epoch_and_index_alone():
    whole = crop_and_flip(IMAGES, INDEX, seed=1, epoch=2, pad=2, flip=True)
    part = crop_and_flip(IMAGES[2:4], INDEX[2:4], seed=1, epoch=2, pad=2, flip=True)
    assert torch.equal(whole[2:4], part)
    for seed, epoch in ((2, 2), (1, 3)):
        assert not torch.equal(whole, crop_and_flip(IMAGES, INDEX, seed=seed, epoch=epoch, pad=2, flip=True))


def test_a_crop_is_the_padded_image_cut_out_again():
    found = crop_and_flip(IMAGES, INDEX, seed=0, epoch=0, pad=2, flip=False)
    padded = torch.nn.functional.pad(IMAGES.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="reflect")
    down = draws(0, 0, INDEX, 1) % 5
    right = draws(0, 0, INDEX, 2) % 5
    for i in range(6):
        cut = padded[i, :, down[i] : down[i] + 5, right[i] : right[i] + 5].permute(1, 2, 0)
        assert torch.equal(found[i].float(), cut)


def test_nothing_asked_is_nothing_done():
    assert crop_and_flip(IMAGES, INDEX, seed=0, epoch=0, pad=0, flip=False) is IMAGES


def test_halves_are_mirrored_and_draws_are_spread():
    index = torch.arange(20_000)
    mirrored = (draws(0, 0, index, 3) & 1).float().mean()
    assert abs(float(mirrored) - 0.5) < 0.02
    shifts = torch.bincount(draws(7, 3, index, 1) % 9) / 20_000
    assert float((shifts - 1 / 9).abs().max()) < 0.01
    both = torch.corrcoef(torch.stack([draws(0, 0, index, 1).double(), draws(0, 0, index, 2).double()]))[0, 1]
    assert abs(float(both)) < 0.03
