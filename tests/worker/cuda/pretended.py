"""A GPU that is not there: tensors that say they are on CUDA and are computed on the CPU, with real values.

What would make the CPU wait for a GPU raises Waited: a value asked for, a result of unknown length, a copy
that is not asynchronous, an index that is not on the device. Reads by `cpu()` are counted. Some of torch's
methods look for the device before they let themselves be caught; those are replaced in Pretended.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "cuda:0"
WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "bincount"}


class Waited(AssertionError):
    """The CPU would have waited for the GPU."""


class Pinned(Tensor):
    """Of the CPU, ready to be copied from while others go on."""

    def to(self, *args: Any, non_blocking: bool = False) -> "Pretended":  # type: ignore[override]
        """To the device."""
        if not non_blocking:
            raise Waited("a copy to the device")
        return Pretended(self.as_subclass(Tensor).clone())


class Pretended(Tensor):
    """Of the device."""

    inner: Tensor
    reads = 0

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        """Around a tensor of the CPU."""
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute."""
        return computed(function, args, kwargs or {})

    def cpu(self) -> Tensor:  # type: ignore[override]
        """Wait, and count it; nothing is not copied."""
        Pretended.reads += self.numel() > 0
        return self.inner.clone()

    def tolist(self) -> Any:
        """Wait."""
        raise Waited("tolist")

    def nonzero(self, **kwargs: Any) -> Any:
        """Wait."""
        raise Waited("nonzero")

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Stay there; a type may change."""
        dtype = next(
            (wanted for wanted in (*args, *kwargs.values()) if isinstance(wanted, torch.dtype)), None
        )
        if any(str(wanted) == "cpu" for wanted in (*args, *kwargs.values())):
            raise Waited("to(cpu)")
        return self if dtype in (None, self.dtype) else torch.ops.aten._to_copy(self, dtype=dtype)

    def copy_(self, source: Tensor, non_blocking: bool = False) -> "Pretended":  # type: ignore[override]
        """From there, or from where one need not wait."""
        if not (isinstance(source, Pretended) or (isinstance(source, Pinned) and non_blocking)):
            raise Waited("copy_ from the CPU")
        self.inner.copy_(_opened(source).as_subclass(Tensor))
        return self

    def contiguous(self, *args: Any, **kwargs: Any) -> "Pretended":
        return Pretended(self.inner.contiguous())

    def __invert__(self) -> Tensor:
        return torch.bitwise_not(self)

    def __getitem__(self, index: Any) -> "Pretended":
        return Pretended(self.inner[_index(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.inner[_index(index)] = _opened(value)


class PretendedCuda(TorchDispatchMode):
    """Inside, there is a device."""

    def __enter__(self) -> Any:
        Pretended.reads = 0
        return super().__enter__()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute."""
        if function.overloadpacket.__name__ in ("pin_memory", "_pin_memory"):
            return args[0].clone().as_subclass(Pinned)
        return computed(function, args, kwargs or {})


def computed(function: Any, args: Any, kwargs: Any) -> Any:
    """What an operator gives: of the device if any of its tensors is, or if it makes one there."""
    leaves = tree_leaves((args, kwargs))
    theirs = [leaf for leaf in leaves if isinstance(leaf, Pretended)]
    if theirs:
        _refuse_to_wait(function.overloadpacket.__name__, leaves, kwargs.get("device"))
    if torch.device(kwargs.get("device") or "cpu").type == "cuda":
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif not theirs:
        return function(*args, **kwargs)
    found = function(*tree_map(_opened, args), **tree_map(_opened, kwargs))
    same = {id(leaf.inner): leaf for leaf in theirs}  # what was changed in place
    return tree_map(lambda leaf: same[id(leaf)] if id(leaf) in same else _closed(leaf), found)


def _refuse_to_wait(name: str, leaves: list[Any], device: Any) -> None:
    if name in WAITING or (device is not None and torch.device(device).type == "cpu"):
        raise Waited(name)
    for leaf in leaves:
        if isinstance(leaf, Tensor) and not isinstance(leaf, Pretended) and leaf.dim():
            raise Waited(f"{name} with a tensor of the CPU")


def _index(index: Any) -> Any:
    for leaf in tree_leaves(index):
        if isinstance(leaf, Tensor) and (not isinstance(leaf, Pretended) or leaf.dtype == torch.bool):
            raise Waited("an index of the CPU, or of booleans")
    if isinstance(index, list):
        raise Waited("a list as an index")
    return tree_map(_opened, index)


def _opened(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, Pretended) else leaf


def _closed(leaf: Any) -> Any:
    return Pretended(leaf) if isinstance(leaf, Tensor) else leaf
