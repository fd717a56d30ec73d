"""A device that is not the CPU, made of the CPU: it finds tensors that were left behind.

A tensor on it holds one of the CPU, and each operation is checked as a GPU would check it: all its
tensors on one device, but for single numbers and indices, and no generator of another one. Needs a
private part of torch. Entered before crispmask is imported, and in a process of its own, as the
device is there for all that follows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

NAME = "elsewhere"
HERE = torch.device("cpu")


class Held(Tensor):
    """A tensor of the device, with the CPU tensor that it is made of."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Held":
        tensor: Held = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(NAME, 0),
        )
        tensor.held = held
        return tensor

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Held({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return checked(func, args, kwargs or {})


def checked(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the operation gives, on the device where a GPU would leave it."""
    aten = torch.ops.aten
    given = tree_flatten((args, kwargs))[0]
    tensors = [x for x in given if isinstance(x, Tensor)]
    ours = {id(x.held): x for x in tensors if isinstance(x, Held)}
    wanted = [x for x in given if isinstance(x, torch.device)]
    stays = wanted[0].type == NAME if wanted else bool(ours)
    copies = func in (aten.copy_.default, aten._to_copy.default)
    if ours and not copies:
        indices = func.overloadpacket in (aten.index, aten.index_put, aten.index_put_)
        left = [x for x in tensors if not isinstance(x, Held) and x.dim() > 0]
        if left and not (indices and isinstance(args[0], Held)):
            raise RuntimeError(f"{func}: {left[0].dtype} {tuple(left[0].shape)} left on the CPU")
    if stays and not copies and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: a generator of the CPU")

    def lower(x: Any) -> Any:
        if isinstance(x, torch.device) and x.type == NAME:
            return HERE
        return x.held if isinstance(x, Held) else x

    found = func(*tree_map(lower, args), **tree_map(lower, kwargs))
    if func is aten.copy_.default:
        return args[0]
    if not stays:
        return found

    def lift(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return ours[id(x)] if id(x) in ours else Held(x)

    return tree_map(lift, found)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends operations on plain tensors, too, through `checked`."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return checked(func, args, kwargs or {})


class Lists(TorchFunctionMode):
    """Makes tensors of lists on the CPU first, which torch does below dispatch."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is Tensor.new_tensor and isinstance(args[0], Held):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(NAME)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Held):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


class Backend(backend_registration._DummyBackendModule):
    """What torch asks of a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        pass


def without_gradients(mode: bool = True) -> Any:
    """In place of inference mode, whose tensors cannot be held."""
    return torch.set_grad_enabled(not mode)


@contextmanager
def elsewhere() -> Iterator[None]:
    """The device is there."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    torch.inference_mode = without_gradients  # type: ignore[misc,assignment]
    with Lists(), Operations():  # type: ignore[no-untyped-call]
        yield
