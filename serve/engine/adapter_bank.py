"""Adapters of many tenants side by side in memory, each in a slot.

A reader holds the slots that it will use, and takes the bank's `stack` afterwards; a writer writes
only into slots that nobody holds. So the two never meet. A slot becomes free when the last object
that holds its `Slot` is gone: a batch in flight keeps its slots, and no count can be forgotten.
"""

import weakref
from collections import deque

import torch
from torch import Tensor

from adapterdistill.adapters import AdapterStack, BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.errors import ServingError

MAX_BOTTLENECK_SIZE = 256
MAX_MIB = 1024.0


class Slot:
    """The right to one adapter's place in the bank, as long as the object is referenced."""

    __slots__ = ("__weakref__", "number")

    def __init__(self, number: int) -> None:
        self.number = number


class AdapterBank:
    """One encoder and its adapters, stacked; grows when no slot is free, up to its limit.

    Adapters narrower than the bank are padded with zeros, which does not change their outputs: a
    padded unit is relu(0) times 0. One thread at a time may `place`; any may read `stack`.

    max_slots: most adapters side by side; None: as many as `max_mib` holds.
    max_mib: most memory of the slots, in MiB. While the bank grows, its old stack stays beside the
        new one until the last batch on it has ended.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        capacity: int = 8,
        max_slots: int | None = None,
        max_mib: float = MAX_MIB,
    ) -> None:
        self.encoder = encoder
        self._num_layers, self._hidden_size = encoder.num_layers, encoder.hidden_size
        self._max_slots, self._max_bytes = max_slots, int(max_mib * 2**20)
        self._free: deque[int] = deque()  # thread-safe: slots come back from any thread
        self._stack = self._empty(0, 1)
        self._first_capacity = capacity

    @property
    def stack(self) -> AdapterStack:
        """All slots as they are now. Later growth makes another stack with the same adapters in
        the slots that are held, and does not change this one."""
        return self._stack

    @property
    def encoder_bytes(self) -> int:
        """Memory of the encoder's weights and of what is prepared of them."""
        return self.encoder.num_bytes

    @property
    def num_slots(self) -> int:
        return self._stack.down.shape[1]

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_bytes(self) -> int:
        """Memory of the slots."""
        return self.num_slots * self._slot_bytes(self._stack.down.shape[2])

    @property
    def limit(self) -> int:
        """Most slots, at the bottleneck size of the widest adapter so far."""
        return self._limit(self._stack.down.shape[2])

    def has_room(self, width: int = 1) -> bool:
        """Whether an adapter of this bottleneck size could be placed now."""
        return bool(self._free) or self.num_slots < self._limit(width)

    def check(self, adapter: BottleneckAdapter) -> None:
        """Raises ServingError: the adapter does not fit this encoder, or is too wide."""
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
        # Every slot is as wide as the widest: one adapter must not evict all the others.
        if self._limit(width) < max(1, self.num_slots):
            raise ServingError(
                f"adapter has bottleneck size {width}: {max(1, self.num_slots)} slots of it need "
                f"more than the bank's {self._max_bytes / 2**20:g} MiB"
            )

    def place(self, adapter: BottleneckAdapter) -> Slot:
        """Copy an adapter into a free slot; read it through the `stack` taken afterwards.

        Raises:
            ServingError: the adapter does not fit (see `check`), or no slot is free.
        """
        self.check(adapter)
        width = adapter.bottleneck_size
        if not self.has_room(width):
            raise ServingError(f"all {self.num_slots} slots of the bank are in use")
        if not self._free or width > self._stack.down.shape[2]:
            self._grow(width)
        number = self._free.pop()
        _write(self._stack, number, adapter)
        slot = Slot(number)
        weakref.finalize(slot, self._free.append, number).atexit = False
        return slot

    def _grow(self, width: int) -> None:
        old, held = self._stack, self.num_slots
        slots, r = held, old.down.shape[2]
        if not self._free:
            # By half, not double: the old stack stays until the last batch on it has ended.
            slots = max(self._first_capacity, held + (held + 1) // 2)
            slots = min(slots, self._limit(max(width, r)))
        stack = self._empty(slots, max(width, r))
        stack.down[:, :held, :r] = old.down
        stack.down_bias[:, :held, :r] = old.down_bias
        stack.up[:, :held, :r] = old.up
        stack.up_bias[:, :held] = old.up_bias
        self._stack = stack
        self._free.extend(reversed(range(held, slots)))

    def _limit(self, width: int) -> int:
        fitting = self._max_bytes // self._slot_bytes(max(width, self._stack.down.shape[2]))
        return fitting if self._max_slots is None else min(fitting, self._max_slots)

    def _slot_bytes(self, width: int) -> int:
        numbers = self._num_layers * (2 * width * self._hidden_size + width + self._hidden_size)
        return numbers * self.encoder.dtype.itemsize

    def _empty(self, slots: int, width: int) -> AdapterStack:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(
                self._num_layers,
                slots,
                *shape,
                dtype=self.encoder.dtype,
                device=self.encoder.device,
            )

        d = self._hidden_size
        return AdapterStack(
            down=zeros(width, d), down_bias=zeros(width), up=zeros(width, d), up_bias=zeros(d)
        )


@torch.no_grad()
def _write(stack: AdapterStack, number: int, adapter: BottleneckAdapter) -> None:
    width = adapter.bottleneck_size
    for target in (stack.down, stack.down_bias, stack.up):
        target[:, number, width:].zero_()  # the slot's last adapter may have been wider
    stack.down[:, number, :width] = adapter.down_weight
    stack.down_bias[:, number, :width] = adapter.down_bias
    stack.up[:, number, :width] = adapter.up_weight.transpose(1, 2)
    stack.up_bias[:, number] = adapter.up_bias
