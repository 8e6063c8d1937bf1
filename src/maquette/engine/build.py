"""From a specification and a weight view to a network: no random numbers, no second copy."""

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from maquette.errors import MaquetteError
from maquette.nn.network import Network
from maquette.weights.view import Weights, describe

N = TypeVar("N", bound=torch.nn.Module)
Spec = TypeVar("Spec")


class _NoInitialisation(TorchFunctionMode):
    """Leaves tensors alone that layers would fill with initial values: on the meta device that costs a second."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def outline(kind: Callable[[Spec], N], spec: Spec) -> N:
    """The network with its names and shapes, but no memory behind them."""
    with torch.device("meta"), _NoInitialisation():
        return kind(spec)


def fill(
    network: N, weights: Weights, device: torch.device, dtype: torch.dtype, *, but: Collection[str] = frozenset()
) -> N:
    """Give an outlined network its tensors, in our names, ready to compute in `dtype` on `device`.

    Those named by `but` are left as they are, to be read when they are needed (`engine/streaming.py`).

    On the CPU a tensor that has the type already stays in its mapped file, and convolutions turn theirs to
    channels-last when they are first used (`nn/conv.py`).

    Raises:
        MaquetteError: a tensor has another shape than the network's.
    """
    wanted = network.state_dict()
    for name, parameter in wanted.items():
        if weights.shape(name) != tuple(parameter.shape):
            raise MaquetteError(
                f"{describe(weights)}: {name} has the shape {weights.shape(name)}, but the network's is "
                f"{tuple(parameter.shape)}; its config.json belongs to other weights"
            )
    given = {name: weights[name].to(device, precision(wanted[name], dtype)) for name in wanted if name not in but}
    network.load_state_dict(given, strict=not but, assign=True)
    network.eval().requires_grad_(False)
    return network if device.type == "cpu" else network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def precision(parameter: torch.Tensor, dtype: torch.dtype) -> torch.dtype:
    """What a parameter of a network that computes in `dtype` is kept in: that, or 8 bits (`engine/storage.py`)."""
    return parameter.dtype if parameter.dtype.itemsize == 1 else dtype


def parameters(network: Network | torch.nn.Module) -> int:
    """How many numbers a network holds."""
    return sum(parameter.numel() for parameter in network.parameters())
