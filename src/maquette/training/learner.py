"""One network under training: float32 masters, a working copy in the training precision, AdamW or Muon, EMA.

The working copy computes forward and backward (bfloat16 where the machine multiplies it fast); gradients are added to
float32 masters, so that small updates are not rounded away (Micikevicius et al. 2018, section 3.1).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from maquette.errors import MaquetteError
from maquette.training.figures import NonFinite, figure
from maquette.training.muon import muon

Precision = Literal["float32", "bfloat16"]
CPU = torch.device("cpu")
Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimiserSpec(BaseModel):
    """AdamW (Loshchilov & Hutter 2019): linear warm-up, then constant, then linear decay to zero at the end.

    With `muon` that rules vectors and embeddings alone, and Muon the matrices, at the same times.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: float = Field(1e-3, gt=0)
    muon: float | None = Field(None, gt=0, description="Rate of Muon for matrices and convolutions; 0.02 is usual.")
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    weight_decay: float = Field(0.01, ge=0)
    warmup: int = Field(200, ge=0)
    decay: float = Field(0.2, ge=0, le=1, description="The last fraction of the run over which the rate falls to zero.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    ema: float | None = Field(None, gt=0, lt=1, description="Decay per step of the moving average of the weights.")

    def share_at(self, step: int, steps: int) -> float:
        """The share of the learning rates that update `step` (from 0) in a run of `steps` has."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (steps - step) / max(1.0, self.decay * steps))
        return rise * max(0.0, fall)


@dataclass
class Learner:
    """A network, its masters and its optimiser's state, all addressed by parameter name."""

    network: nn.Module
    spec: OptimiserSpec
    steps: int
    precision: Precision = "bfloat16"
    device: torch.device = CPU

    def __post_init__(self) -> None:
        # The layout comes first: masters, gradients and moments of one layout are updated in one pass each.
        self.network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.names = [name for name, _ in self.network.named_parameters()]
        self.masters = [p.detach().float().clone() for p in self.network.parameters()]
        self.by_muon = self._matrices() if self.spec.muon is not None else frozenset()
        self.first = [torch.zeros_like(m) for m in self.masters]
        self.second = [m.new_zeros(0) if i in self.by_muon else torch.zeros_like(m) for i, m in enumerate(self.masters)]
        self.average = [m.clone() for m in self.masters] if self.spec.ema is not None else None
        self.network.to(dtype=torch.bfloat16 if self.precision == "bfloat16" else torch.float32)
        self._publish()

    def _matrices(self) -> frozenset[int]:
        """Which parameters Muon updates: embeddings are rows of their own, and normalise no matrix."""
        rows = {id(m.weight) for m in self.network.modules() if isinstance(m, nn.Embedding)}
        return frozenset(i for i, p in enumerate(self.network.parameters()) if p.dim() > 1 and id(p) not in rows)

    @torch.no_grad()
    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """Start from weights instead of the initial ones, by the parameters' names.

        Raises:
            MaquetteError: they are of another network; parameters they do not name stay as they are.
        """
        masters = dict(zip(self.names, self.masters, strict=True))
        surplus = sorted(weights.keys() - masters.keys())
        other = [name for name, weight in weights.items() if name in masters and weight.shape != masters[name].shape]
        wrong = other + surplus or ([] if weights else ["none"])
        if wrong:
            raise MaquetteError(
                f"the weights to begin with are of another shape than the recipe's: {wrong[0]}; change either"
            )
        for name, weight in weights.items():
            masters[name].copy_(weight)
        if self.average is not None:
            torch._foreach_copy_(self.average, self.masters)
        self._publish()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the network works with the moving average."""
        masters, self.masters = self.masters, self.average or self.masters
        self._publish()
        try:
            yield
        finally:
            self.masters = masters
            self._publish()

    @torch.no_grad()
    def settle(self) -> None:
        """Go on from the moving average: what is frozen from here on is then what will be used."""
        if self.average is not None:
            torch._foreach_copy_(self.masters, self.average)
            self._publish()

    @torch.no_grad()
    def update(self, step: int) -> float | Tensor:
        """One AdamW update from the gradients in the network, which are cleared; the gradient's norm.

        Parameters that got no gradient stay as they are. On the CPU the norm is a number, and NonFinite is raised
        before any weight is harmed; an accelerator is not waited for, and weights become NaN with the norm.
        """
        parameters = list(self.network.parameters())
        live = [i for i, p in enumerate(parameters) if p.grad is not None]
        gradients = [parameters[i].grad.float() for i in live]  # type: ignore[union-attr]
        norm = self._clip(gradients, step)
        pairs = list(zip(live, gradients, strict=True))
        self._muon({i: gradient for i, gradient in pairs if i in self.by_muon}, step)
        self._adamw({i: gradient for i, gradient in pairs if i not in self.by_muon}, step)
        if self.average is not None and self.spec.ema is not None:
            decay = min(self.spec.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.average, self.masters, 1.0 - decay)
        self.network.zero_grad(set_to_none=True)
        self._publish()
        return norm

    def _clip(self, gradients: list[Tensor], step: int) -> float | Tensor:
        """Scale the gradients down to the largest norm; their norm before."""
        norm = torch.nn.utils.get_total_norm(gradients)
        number = figure(norm)
        if isinstance(number, Tensor):
            torch._foreach_mul_(gradients, (self.spec.clip / (norm + 1e-12)).clamp(max=1.0))
            return number
        if not number < float("inf"):
            raise NonFinite(f"the gradient's norm became {number} at step {step}")
        torch._foreach_mul_(gradients, min(1.0, self.spec.clip / (number + 1e-12)))
        return number

    def _muon(self, gradients: dict[int, Tensor], step: int) -> None:
        if not gradients or self.spec.muon is None:
            return
        rate = self.spec.muon * self.spec.share_at(step, self.steps)
        masters, momenta = ([group[i] for i in gradients] for group in (self.masters, self.first))
        muon(masters, list(gradients.values()), momenta, rate, self.spec.weight_decay)

    def _adamw(self, of: dict[int, Tensor], step: int) -> None:
        if not of:
            return
        beta1, beta2 = self.spec.betas
        rate = self.spec.rate * self.spec.share_at(step, self.steps)
        live, gradients = list(of), list(of.values())
        masters, first, second = ([group[i] for i in live] for group in (self.masters, self.first, self.second))
        decayed = [master for master in masters if master.dim() > 1]  # scales and biases are not
        torch._foreach_lerp_(first, gradients, 1.0 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - beta2)
        denominator = torch._foreach_sqrt(second)
        torch._foreach_div_(denominator, (1.0 - beta2 ** (step + 1)) ** 0.5)
        torch._foreach_add_(denominator, 1e-8)
        if decayed:
            torch._foreach_mul_(decayed, 1.0 - rate * self.spec.weight_decay)
        torch._foreach_addcdiv_(masters, first, denominator, -rate / (1.0 - beta1 ** (step + 1)))

    @torch.no_grad()
    def _publish(self) -> None:
        """Copy the masters into the working network."""
        torch._foreach_copy_(list(self.network.parameters()), self.masters)

    def best(self) -> dict[str, Tensor]:
        """The weights to use: the moving average where there is one, else the masters; float32."""
        return dict(zip(self.names, self.masters if self.average is None else self.average, strict=True))

    def state(self, prefix: str) -> dict[str, Tensor]:
        """Everything needed to go on, under `prefix`."""
        groups = {"master": self.masters, "first": self.first, "second": self.second}
        if self.average is not None:
            groups["average"] = self.average
        return {
            f"{prefix}.{group}.{name}": tensor
            for group, tensors in groups.items()
            for name, tensor in zip(self.names, tensors, strict=True)
        }

    @torch.no_grad()
    def load(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take back what `state` gave; every tensor must be there in its shape."""
        for key, tensor in self.state(prefix).items():
            if key not in state or state[key].shape != tensor.shape:
                raise MaquetteError(
                    f"the checkpoint's tensor {key!r} is missing or of another shape: the recipe was changed since; "
                    "restore it, or start in another folder"
                )
            tensor.copy_(state[key])
        self._publish()
