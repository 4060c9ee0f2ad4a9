"""The encoder that a benchmark or a drill runs with."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it imports torch
    from adapterdistill.backbone import Encoder


@dataclass(frozen=True)
class EncoderOptions:
    """Which encoder is loaded, and how it computes."""

    name: str = "minilm-l6"
    """A known encoder, or a folder."""
    dtype: str = "auto"
    device: str = "cpu"
    max_tokens: int | None = 48
    """Longer texts are cut, for every method alike."""

    def load(self) -> "Encoder":
        return self._loaded(self.dtype, self.device)

    def load_exact(self) -> "Encoder":
        """The same encoder in float32 on the CPU."""
        return self._loaded("float32", "cpu")

    def _loaded(self, dtype: str, device: str) -> "Encoder":
        from adapterdistill.backbone import load_encoder

        return load_encoder(self.name, dtype=dtype, device=device, max_tokens=self.max_tokens)
