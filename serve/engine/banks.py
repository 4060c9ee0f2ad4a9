"""The encoders of a deployment, each with a bank of its own for the adapters on it.

A bundle's manifest names its encoder by digest, and `Banks.of` is the only way from a bundle to an
encoder. The deployment is told which encoders it may load: the first is there from the start, each
other one is loaded when a bundle first needs it, if the memory for encoders allows it. An encoder
that is loaded stays.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from adapterdistill.backbone import Encoder
from adapterdistill.errors import (
    AdapterDistillError,
    EncoderMismatchError,
    ServingError,
    listed,
)
from adapterdistill.manifest import EncoderRef
from adapterdistill.serve.engine.adapter_bank import MAX_MIB, AdapterBank

ENCODER_MIB = 2048.0
"""Room for four encoders of the size of multilingual-e5-small in float32, or for twenty MiniLMs."""


class Banks:
    """A bank for each loaded encoder. Thread-safe.

    others: loads each encoder that may be loaded beside the first; by the encoder's name or folder.
    encoder_mib: most memory of the encoders' weights, in MiB.
    bank_mib: most memory of adapters, in MiB; each encoder that may be loaded has an equal part.
    max_slots: most adapters on one encoder side by side; None: as many as its part of the memory
        holds.
    """

    def __init__(
        self,
        encoder: Encoder,
        others: Mapping[str, Callable[[], Encoder]],
        *,
        encoder_mib: float = ENCODER_MIB,
        bank_mib: float = MAX_MIB,
        capacity: int = 8,
        max_slots: int | None = None,
    ) -> None:
        """Raises ServingError: the first encoder alone takes more memory than all may."""
        self.encoder_mib, self.bank_mib = encoder_mib, bank_mib
        self._part_mib = bank_mib / (1 + len(others))
        self._capacity, self._max_slots = capacity, max_slots
        self._others = dict(others)
        self._too_large: dict[str, ServingError] = {}
        self._loading = threading.Lock()
        self._loaded: tuple[AdapterBank, ...] = ()
        self._add(encoder.ref.name, encoder)

    @property
    def loaded(self) -> tuple[AdapterBank, ...]:
        """The banks of the loaded encoders, the first encoder's first."""
        return self._loaded

    @property
    def not_loaded(self) -> tuple[str, ...]:
        """Encoders that may be loaded, and are not: no bundle has needed them, or they were
        refused. Without their folders."""
        return tuple(Path(name).name for name in self._others)

    def of(self, ref: EncoderRef) -> AdapterBank:
        """The bank of the encoder with these digests; the encoder is loaded if need be.

        Raises:
            EncoderMismatchError: the deployment has no such encoder.
            ServingError: one that might be it cannot be loaded: it is not found, broken, or larger
                than the memory for encoders allows.
        """
        found = self._find(ref)
        if found is None:
            with self._loading:
                found = self._find(ref) or self._load(ref)
        return found

    def _find(self, ref: EncoderRef) -> AdapterBank | None:
        return next((bank for bank in self._loaded if bank.encoder.ref.same_as(ref)), None)

    def _load(self, ref: EncoderRef) -> AdapterBank:
        """Load encoders until one has the digests: first the one of that name, then the others,
        as a name is for people."""
        needed = f"the bundle needs encoder {ref.name} ({ref.weights_sha256[:12]})"
        faults = []
        for name in sorted(self._others, key=lambda name: Path(name).name != ref.name):
            try:
                if name in self._too_large:
                    raise self._too_large[name]
                bank = self._add(name, self._others[name]())
            except AdapterDistillError as error:
                faults.append(str(error))
                continue
            del self._others[name]
            if bank.encoder.ref.same_as(ref):
                return bank
        if faults:
            raise ServingError(listed(f"{needed}, which is not loaded", faults))
        there = ", ".join(
            f"{bank.encoder.ref.name} ({bank.encoder.ref.weights_sha256[:12]})"
            for bank in self._loaded
        )
        raise EncoderMismatchError(
            f"{needed}, this server has {there}: name that encoder to `serve`, too (--encoder)"
        )

    def _add(self, name: str, encoder: Encoder) -> AdapterBank:
        bank = AdapterBank(
            encoder, capacity=self._capacity, max_slots=self._max_slots, max_mib=self._part_mib
        )
        needed, used = bank.encoder_bytes, sum(one.encoder_bytes for one in self._loaded)
        if used + needed > self.encoder_mib * 2**20:
            self._too_large[name] = ServingError(
                f"encoder {name} takes {needed / 2**20:.1f} MiB, and {used / 2**20:.1f} of the "
                f"{self.encoder_mib:g} MiB for encoders are in use: raise --encoder-mib, or "
                "serve it elsewhere"
            )
            raise self._too_large[name]
        self._loaded = (*self._loaded, bank)
        return bank
