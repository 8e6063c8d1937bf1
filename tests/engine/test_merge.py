"""Token merging, compared with loops over places and with attention over all of them."""

import pytest
import torch
import torch.nn.functional as F
from small_models import DIT, SD1, random_state
from torch import Tensor

from maquette.diffusion.conditioning import Conditioning
from maquette.diffusion.denoise import denoiser
from maquette.diffusion.prediction import SAMPLE
from maquette.diffusion.process import Level
from maquette.engine.build import outline
from maquette.engine.merge import draw, match, merging
from maquette.errors import MaquetteError
from maquette.models.dit import DiT
from maquette.models.unet import UNet
from maquette.nn.attention import SelfAttention, attend

LEVEL = Level(500.0, 0.6, 0.8)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 3)])
def test_one_place_of_each_cell_stays(size: tuple[int, int]) -> None:
    rows, columns = size
    stay, others = draw(rows, columns, torch.Generator().manual_seed(1))
    assert sorted([*stay.tolist(), *others.tolist()]) == list(range(rows * columns))
    assert others.tolist() == sorted(others.tolist())
    cells = {(int(place) // columns // 2, int(place) % columns // 2) for place in stay}
    assert cells == {(y // 2, x // 2) for y in range(rows) for x in range(columns)}
    assert len(stay) == len(cells)


def by_hand(k: Tensor, stay: list[int], count: int) -> list[set[int]]:
    """The groups that places of one picture, keys (heads, L, d), are merged into."""
    alike, groups = k.mean(0), {place: {place} for place in stay}
    found = []
    for place in set(range(k.shape[1])) - set(stay):
        cosines = [float(F.cosine_similarity(alike[place], alike[other], dim=0)) for other in stay]
        found.append((max(cosines), place, stay[cosines.index(max(cosines))]))
    for rank, (_, place, other) in enumerate(sorted(found, reverse=True)):
        if rank < count:
            groups[other].add(place)
        else:
            groups[place] = {place}
    return sorted(groups.values(), key=min)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_those_most_alike_are_merged_into_their_mean(ratio: float) -> None:
    rows, columns, k, x = 4, 6, randn(2, 3, 24, 5), randn(2, 3, 24, 5, seed=1)
    grid = draw(rows, columns, torch.Generator().manual_seed(2))
    merge, unmerge = match(k, grid, ratio)
    assert merge(x).shape == (2, 3, 24 - int(ratio * 24), 5)
    back = unmerge(merge(x))
    for picture in range(2):
        for group in by_hand(k[picture], grid.stay.tolist(), int(ratio * 24)):
            places = sorted(group)
            wanted = x[picture][:, places].mean(1, keepdim=True).expand(-1, len(places), -1)
            assert torch.allclose(back[picture][:, places], wanted, atol=1e-6)


def test_nothing_of_it_waits_for_the_device() -> None:
    """Where nothing is computed, nobody can ask how many places there are."""
    meta = torch.device("meta")
    merge, unmerge = match(randn(2, 3, 24, 5).to(meta), draw(4, 6, torch.Generator()).to(meta), 0.5)
    assert unmerge(merge(randn(2, 3, 24, 5).to(meta))).shape == (2, 3, 24, 5)


def small_unet() -> UNet:
    network = outline(UNet, SD1)
    network.load_state_dict(random_state(network, 0), assign=True)
    return network.requires_grad_(False)


def test_only_the_finest_attention_to_itself_is_merged_and_a_picture_repeats_itself(monkeypatch) -> None:
    network, told, x = small_unet(), Conditioning(randn(2, 7, 64)), randn(2, 4, 6, 10)
    seen: list[int] = []

    def watch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append(q.shape[2])
        return attend(q, k, v)

    layers = [module for module in network.modules() if isinstance(module, SelfAttention)]
    for layer in layers:
        layer.attend = watch
    plain = denoiser(network, SAMPLE)
    exact = plain(x, LEVEL, told)
    assert seen == [60, 60, 15, 60, 60, 60]
    seen.clear()
    first, again = (merging(plain, network, 0.5)(x, LEVEL, told) for _ in range(2))
    assert seen == 2 * [30, 30, 15, 30, 30, 30]
    assert torch.equal(first, again)
    assert not torch.equal(first, exact)
    assert all(layer.attend is watch for layer in layers)
    alone = merging(plain, network, 0.5)(x[:1], LEVEL, told[slice(0, 1)])
    assert torch.allclose(alone, first[:1], atol=1e-5), "a picture does not depend on the others of its batch"


def test_the_places_that_stay_change_from_question_to_question() -> None:
    network, told, x = small_unet(), Conditioning(randn(1, 7, 64)), randn(1, 4, 8, 8)
    merged = merging(denoiser(network, SAMPLE), network, 0.5)
    assert not torch.equal(merged(x, LEVEL, told), merged(x, LEVEL, told))


@pytest.mark.parametrize(
    ("kind", "spec", "ratio", "message"),
    [(DiT, DIT, 0.5, "not this DiT"), (UNet, SD1, 0.8, "up to 0.75"), (UNet, SD1, 0.0, "above 0")],
)
def test_what_cannot_be_merged_is_refused(kind, spec, ratio: float, message: str) -> None:
    with pytest.raises(MaquetteError, match=message):
        merging(lambda x, level, told: x, outline(kind, spec), ratio)
