"""The encoder that a benchmark or a drill runs with."""

from dataclasses import dataclass

from adapterdistill.backbone import Encoder, load_encoder


@dataclass(frozen=True)
class EncoderOptions:
    """Which encoder is loaded, and how it computes."""

    name: str = "minilm-l6"
    """A known encoder, or a folder."""
    dtype: str = "auto"
    device: str = "cpu"
    max_tokens: int = 48
    """Longer texts are cut, for every method alike."""

    def load(self) -> Encoder:
        return load_encoder(
            self.name, dtype=self.dtype, device=self.device, max_tokens=self.max_tokens
        )

    def load_exact(self) -> Encoder:
        """The same encoder in float32 on the CPU."""
        return load_encoder(self.name, dtype="float32", max_tokens=self.max_tokens)
