"""AdamW on float32 masters against PyTorch's own, the moving average, and states that come back exactly."""

import pytest
import torch
from torch import nn

from maquette.errors import MaquetteError
from maquette.nn.norm import GroupNorm
from maquette.training.figures import NonFinite
from maquette.training.learner import Learner, OptimiserSpec
from maquette.training.muon import orthogonal

PLAIN = OptimiserSpec(rate=3e-3, warmup=0, decay=0.0, clip=1e9, weight_decay=0.1)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3), GroupNorm(2, 6), nn.Flatten(), nn.Linear(24, 5))


def loss_of(net: nn.Module, step: int) -> torch.Tensor:
    x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(step))
    return (net(x.to(next(net.parameters()).dtype)).float() - x.mean()).square().sum()


def learn(learner: Learner, steps: range) -> list[float]:
    norms = []
    for step in steps:
        loss_of(learner.network, step).backward()
        norms.append(learner.update(step))
    return norms


@pytest.mark.parametrize(
    "spec",
    [PLAIN, OptimiserSpec(rate=1e-2, betas=(0.5, 0.9), warmup=3, decay=0.5, clip=0.5, weight_decay=0.3)],
    ids=["plain", "warm-up, decay and clipping"],
)
def test_updates_are_those_of_pytorch(spec: OptimiserSpec) -> None:
    steps, ours, theirs = 12, network(), network()
    learner = Learner(ours, spec, steps, "float32")
    matrices = [p for p in theirs.parameters() if p.dim() > 1]
    others = [p for p in theirs.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": spec.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=spec.betas)
    for step in range(steps):
        learn(learner, range(step, step + 1))
        optimiser.zero_grad()
        loss_of(theirs, step).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), spec.clip)
        for group in optimiser.param_groups:
            group["lr"] = spec.rate * spec.share_at(step, steps)
        optimiser.step()
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, reference, rtol=1e-5, atol=1e-6)


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    spec = OptimiserSpec(warmup=4, decay=0.5)
    shares = [spec.share_at(step, 20) for step in range(21)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[5:11] == [1.0] * 6
    assert shares[10:] == pytest.approx([1.0 - 0.1 * k for k in range(11)])
    assert spec.share_at(30, 20) == 0.0


def test_muon_updates_matrices_as_pytorch_does_and_leaves_the_rest_to_adamw() -> None:
    spec, steps = OptimiserSpec(rate=1e-2, muon=0.05, warmup=3, decay=0.5, clip=0.5, weight_decay=0.3), 12
    ours, theirs, plain = network(), network(), network()
    learner = Learner(ours, spec, steps, "float32")
    matrices = [p for p in theirs.parameters() if p.dim() > 1]
    others = [p for p in theirs.parameters() if p.dim() <= 1]
    flat = [p.detach().flatten(1).clone() for p in matrices]  # PyTorch's takes two dimensions alone
    muon = torch.optim.Muon(flat, weight_decay=spec.weight_decay)
    adamw = torch.optim.AdamW(others, betas=spec.betas, weight_decay=0.0)
    for step in range(steps):
        learn(learner, range(step, step + 1))
        theirs.zero_grad()
        loss_of(theirs, step).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), spec.clip)
        share = spec.share_at(step, steps)
        muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"] = 0.05 * share, spec.rate * share
        for matrix, p in zip(flat, matrices, strict=True):
            assert p.grad is not None
            matrix.grad = p.grad.flatten(1)
        muon.step()
        adamw.step()
        for matrix, p in zip(flat, matrices, strict=True):
            p.data.copy_(matrix.view_as(p))
    for mine, reference, before in zip(ours.parameters(), theirs.parameters(), plain.parameters(), strict=True):
        assert (mine - reference).norm() < 0.02 * (reference - before).norm()  # both multiply in bfloat16


def test_muon_brings_singular_values_near_one_and_leaves_embeddings_alone() -> None:
    for shape in ((24, 40), (40, 24)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))))
        assert float(values.min()) > 0.5 and float(values.max()) < 1.3
    layers = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Conv2d(4, 4, 3))
    assert Learner(layers, OptimiserSpec(muon=0.02), 1, "float32").by_muon == {1, 3}


def test_the_moving_average_follows_the_masters() -> None:
    learner = Learner(network(), OptimiserSpec(rate=1e-2, warmup=0, ema=0.8), 20, "float32")
    expected = [m.clone() for m in learner.masters]
    for step in range(20):
        learn(learner, range(step, step + 1))
        decay = min(0.8, (1 + step) / (10 + step))
        expected = [decay * e + (1 - decay) * m for e, m in zip(expected, learner.masters, strict=True)]
    for name, reference in zip(learner.names, expected, strict=True):
        assert torch.allclose(learner.best()[name], reference, atol=1e-6)
    assert not torch.allclose(learner.best()["0.weight"], learner.masters[0], atol=1e-6)


def test_masters_keep_updates_that_bfloat16_rounds_away() -> None:
    learner = Learner(net := nn.Linear(1, 1, bias=False), OptimiserSpec(rate=1e-4, warmup=0, decay=0), 100)
    learner.masters[0].fill_(1.0)
    learner._publish()
    seen = []
    for step in range(40):
        net.weight.sum().backward()
        learner.update(step)
        seen.append(float(net.weight.detach()))
    assert net.weight.dtype == torch.bfloat16
    assert seen[0] == 1.0 and float(learner.masters[0]) == pytest.approx(1.0 - 40e-4, abs=1e-4)
    assert seen[-1] == pytest.approx(1.0 - 40e-4, abs=2e-3) and seen[-1] < 1.0


def test_without_masters_such_updates_are_lost() -> None:
    weight = torch.ones(1, dtype=torch.bfloat16)
    for _ in range(40):
        weight -= 1e-4
    assert float(weight) == 1.0


def test_inside_averaged_the_network_is_the_average_and_afterwards_it_is_as_before() -> None:
    learner = Learner(network(), OptimiserSpec(rate=1e-2, ema=0.9), 10)
    learn(learner, range(3))
    before = {name: tensor.clone() for name, tensor in learner.state("x").items()}
    working = [p.detach().clone() for p in learner.network.parameters()]
    with pytest.raises(ZeroDivisionError), learner.averaged():
        for p, average in zip(learner.network.parameters(), learner.best().values(), strict=True):
            assert torch.equal(p, average.to(p.dtype))
        raise ZeroDivisionError
    assert all(torch.equal(p, w) for p, w in zip(learner.network.parameters(), working, strict=True))
    after = learner.state("x")
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_settling_goes_on_from_the_average() -> None:
    learner = Learner(network(), OptimiserSpec(rate=1e-2, ema=0.9), 10)
    learn(learner, range(3))
    average = {name: tensor.clone() for name, tensor in learner.best().items()}
    learner.settle()
    for master, p, (name, reference) in zip(
        learner.masters, learner.network.parameters(), average.items(), strict=True
    ):
        assert torch.equal(master, reference) and torch.equal(p, reference.to(p.dtype))
        assert torch.equal(learner.best()[name], reference)


def test_parameters_without_a_gradient_stay() -> None:
    learner = Learner(net := network(), OptimiserSpec(rate=1e-2, weight_decay=0.5), 10, "float32")
    first = net[0].weight.detach().clone()
    net[0].requires_grad_(False)
    learn(learner, range(3))
    assert torch.equal(net[0].weight, first) and torch.equal(learner.masters[0], first)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_harms_nothing(bad: float) -> None:
    learner = Learner(net := network(), OptimiserSpec(ema=0.9), 10)
    learn(learner, range(2))
    before = {name: tensor.clone() for name, tensor in learner.state("x").items()}
    (loss_of(net, 2) * bad).backward()
    with pytest.raises(NonFinite, match="step 2"):
        learner.update(2)
    assert all(torch.equal(before[k], tensor) for k, tensor in learner.state("x").items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loaded_state_goes_on_bit_for_bit(precision: str) -> None:
    spec = OptimiserSpec(rate=1e-2, ema=0.9)
    whole, early, late = (Learner(network(seed), spec, 8, precision) for seed in (0, 0, 1))
    norms = learn(whole, range(8))
    learn(early, range(5))
    late.load(early.state("net"), "net")
    assert learn(late, range(5, 8)) == norms[5:]
    expected, found = whole.state("net"), late.state("net")
    assert expected.keys() == found.keys() and all(torch.equal(expected[k], found[k]) for k in expected)


def test_a_state_of_another_network_is_refused() -> None:
    learner = Learner(network(), OptimiserSpec(), 8)
    state = learner.state("net")
    with pytest.raises(MaquetteError, match=r"'net\.master\.3\.bias' is missing or of another shape: the recipe"):
        learner.load({**state, "net.master.3.bias": torch.zeros(6)}, "net")
    with pytest.raises(MaquetteError, match=r"'net\.first\.0\.weight' is missing"):
        learner.load({name: t for name, t in state.items() if name != "net.first.0.weight"}, "net")
