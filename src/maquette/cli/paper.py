"""A stand-in for PyTorch that knows shapes alone, for looking at files.

What `maquette inspect` says follows from names, shapes and the structure of our networks. Importing PyTorch takes
longer than all of that, so the same networks are built on paper: layers that hold the shapes of their parameters and
compute nothing. Whatever is missing here raises an error, upon which PyTorch itself is used (see
docs/decisions/0015-inspection-on-paper.md).
"""

import importlib.machinery
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Any, Self

DTYPES = {
    **{"bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4, "uint64": 8, "int64": 8},
    **{"float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1},
    **{"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex32": 4, "complex64": 8, "complex128": 16},
}
"""Names of types, and the bytes of a number of each."""


class DType:
    """A type of numbers, printed as PyTorch's."""

    def __init__(self, name: str, itemsize: int) -> None:
        self.name, self.itemsize = name, itemsize
        self.is_floating_point = "float" in name
        self.is_complex = "complex" in name

    def __repr__(self) -> str:
        return f"torch.{self.name}"


class Tensor:
    """A shape."""

    def __init__(self, *shape: Any, **_: object) -> None:
        self.shape: tuple[int, ...] = shape[0] if isinstance(shape[0], tuple) else shape

    def numel(self) -> int:
        return math.prod(self.shape)


class Numbers(Tensor):
    """What is computed while a network is built, such as positions: nobody asks for its shape."""

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__(())

    def __getattr__(self, name: str) -> Callable[..., Self]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: self

    def __getitem__(self, _: object) -> Self:
        return self

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Self, ...]:
        return (self,) * chunks

    def _with(self, _: object) -> Self:
        return self

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _with

    def __neg__(self) -> Self:
        return self


class Context:
    """Any context manager, which does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __init_subclass__(cls, **_: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function


class Module:
    """A layer: its attributes, in the order in which they were set."""

    def __class_getitem__(cls, _: object) -> type[Self]:
        return cls

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        setattr(self, name, tensor)

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        return ((name, child) for name, child in vars(self).items() if isinstance(child, Module))

    def children(self) -> Iterator["Module"]:
        return (child for _, child in self.named_children())

    def modules(self) -> Iterator["Module"]:
        yield self
        for child in self.children():
            yield from child.modules()

    def get_submodule(self, path: str) -> "Module":
        found: Any = self
        for word in filter(None, path.split(".")):
            found = getattr(found, word)
        return found

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                yield prefix + name, value
        for name, child in self.named_children():
            yield from child.named_parameters(f"{prefix}{name}.")

    def parameters(self) -> Iterator[Tensor]:
        return (tensor for _, tensor in self.named_parameters())


class Layer(Module):
    """A layer with a weight and perhaps a bias."""

    def _hold(self, weight: tuple[int, ...], *, affine: bool = True, bias: bool = True) -> None:
        self.weight = Tensor(weight) if affine else None
        self.bias = Tensor(weight[:1]) if affine and bias else None


class Linear(Layer):
    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.in_features, self.out_features = in_features, out_features
        self._hold((out_features, in_features), bias=bias)


class Conv2d(Layer):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        kernel = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        self._hold((out_channels, in_channels, *kernel), bias=bias)


class LayerNorm(Layer):
    def __init__(self, width: int, eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True) -> None:
        self._hold((width,), affine=elementwise_affine, bias=bias)


class RMSNorm(Layer):
    def __init__(self, width: int, eps: float | None = None) -> None:
        self._hold((width,), bias=False)


class GroupNorm(Layer):
    def __init__(self, groups: int, width: int, eps: float = 1e-5, affine: bool = True) -> None:
        self._hold((width,), affine=affine)


class Embedding(Layer):
    def __init__(self, rows: int, width: int) -> None:
        self._hold((rows, width), bias=False)


class Identity(Module): ...


class ModuleList(Module):
    def __init__(self, modules: Iterable[Module] = ()) -> None:
        self.extend(modules)

    def append(self, module: Module) -> Self:
        setattr(self, str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        for module in modules:
            self.append(module)
        return self

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def __len__(self) -> int:
        return len(vars(self))

    def __getitem__(self, index: int) -> Module:
        return list(self)[index]


def _nothing(*_: object, **__: object) -> None: ...


def _as_it_is(value: Any, *_: object, **__: object) -> Any:
    return value


def _modules() -> dict[str, ModuleType]:
    """The modules that our own import, by name."""
    layers = (Module, Linear, Conv2d, LayerNorm, RMSNorm, GroupNorm, Embedding, Identity, ModuleList)
    names: dict[str, dict[str, Any]] = {
        "torch": {
            **{name: DType(name, itemsize) for name, itemsize in DTYPES.items()},
            **dict.fromkeys(("empty", "zeros", "ones"), Tensor),
            **dict.fromkeys(("arange", "cat", "exp", "promote_types"), Numbers),
            **dict.fromkeys(("device", "Generator", "Size", "no_grad", "inference_mode"), Context),
            **{"Tensor": Tensor, "dtype": DType},
        },
        "torch.nn": {**{layer.__name__: layer for layer in layers}, "Parameter": _as_it_is},
        "torch.nn.init": dict.fromkeys(("zeros_", "normal_", "uniform_", "xavier_uniform_"), _nothing),
        "torch.nn.functional": dict.fromkeys(("gelu", "silu", "relu"), _nothing),
        "torch.autograd": {"Function": Context},
        "torch.autograd.function": {"once_differentiable": _as_it_is},
        "torch.overrides": {"TorchFunctionMode": Context},
    }
    modules = {}
    for name, members in names.items():
        module = modules[name] = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        vars(module).update(members)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(modules[parent], last, module)
    return modules


@contextmanager
def on_paper() -> Iterator[None]:
    """Inside the block, which must come before PyTorch's import, modules are imported with this stand-in.

    They are forgotten afterwards, so that whatever comes next imports PyTorch itself.
    """
    assert "torch" not in sys.modules
    before = set(sys.modules)
    sys.modules.update(_modules())
    try:
        yield
    finally:
        for name in set(sys.modules) - before:
            if name.split(".")[0] in ("torch", "maquette"):
                del sys.modules[name]
