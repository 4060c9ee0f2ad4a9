"""Adapters of many tenants side by side in memory, each in a slot.

Reading and writing never meet: a reader takes the bank's `stack` of one moment together with the
slots that it will use (`serve.engine.Snapshot`), and a writer writes only into slots that nobody
holds. A slot comes free when the last object that holds its `Slot` is gone, so a slot cannot be
reused under a batch in flight, and there is no count that somebody could forget to lower.
"""

import weakref
from collections import deque

import torch
from torch import Tensor

from adapterdistill.adapters import AdapterStack, BottleneckAdapter
from adapterdistill.errors import ServingError

MAX_BOTTLENECK_SIZE = 256


class Slot:
    """The right to one adapter's place in the bank, for as long as the object is referenced."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int) -> None:
        self.number = number


class AdapterBank:
    """Stacked adapters of one encoder; grows when no slot is free.

    Adapters narrower than the bank are padded with zeros, which leaves their outputs as they were:
    a padded unit is relu(0) times 0. One thread at a time may `place`; any may read `stack`.
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        capacity: int = 8,
    ) -> None:
        self._num_layers = num_layers
        self._hidden_size = hidden_size
        self._dtype, self._device = dtype, torch.device(device)
        self._free: deque[int] = deque()  # thread-safe: slots come back from any thread
        self._stack = self._empty(0, 1)
        self._first_capacity = capacity

    @property
    def stack(self) -> AdapterStack:
        """All slots as they are now. Later growth makes another stack and leaves this one."""
        return self._stack

    @property
    def num_slots(self) -> int:
        return self._stack.down.shape[1]

    @property
    def num_free(self) -> int:
        return len(self._free)

    def place(self, adapter: BottleneckAdapter) -> Slot:
        """Copy an adapter into a free slot; read it through the `stack` taken afterwards.

        Raises:
            ServingError: the adapter does not fit this encoder, or is too wide.
        """
        shape, width = (adapter.num_layers, adapter.hidden_size), adapter.bottleneck_size
        if shape != (self._num_layers, self._hidden_size):
            raise ServingError(
                f"adapter has (layers, hidden size) {shape}, the bank "
                f"{(self._num_layers, self._hidden_size)}"
            )
        if width > MAX_BOTTLENECK_SIZE:
            raise ServingError(
                f"adapter has bottleneck size {width}: at most {MAX_BOTTLENECK_SIZE} is served"
            )
        if not self._free or width > self._stack.down.shape[2]:
            self._grow(width)
        number = self._free.pop()
        _write(self._stack, number, adapter)
        slot = Slot(number)
        weakref.finalize(slot, self._free.append, number).atexit = False
        return slot

    def _grow(self, width: int) -> None:
        old, held = self._stack, self.num_slots
        slots = held
        if not self._free:
            # By half, not double: the old stack stays until the last batch on it has ended.
            slots = max(self._first_capacity, held + (held + 1) // 2)
        stack = self._empty(slots, max(width, old.down.shape[2]))
        r = old.down.shape[2]
        stack.down[:, :held, :r] = old.down
        stack.down_bias[:, :held, :r] = old.down_bias
        stack.up[:, :held, :r] = old.up
        stack.up_bias[:, :held] = old.up_bias
        self._stack = stack
        self._free.extend(reversed(range(held, slots)))

    def _empty(self, slots: int, width: int) -> AdapterStack:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(
                self._num_layers, slots, *shape, dtype=self._dtype, device=self._device
            )

        d = self._hidden_size
        return AdapterStack(
            down=zeros(width, d), down_bias=zeros(width), up=zeros(width, d), up_bias=zeros(d)
        )


@torch.no_grad()
def _write(stack: AdapterStack, number: int, adapter: BottleneckAdapter) -> None:
    width = adapter.bottleneck_size
    for target in (stack.down, stack.down_bias, stack.up):
        target[:, number, width:].zero_()  # the slot's last holder may have been wider
    stack.down[:, number, :width] = adapter.down_weight
    stack.down_bias[:, number, :width] = adapter.down_bias
    stack.up[:, number, :width] = adapter.up_weight.transpose(1, 2)
    stack.up_bias[:, number] = adapter.up_bias
