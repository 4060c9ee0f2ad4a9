"""With which encoder and in how many processes a benchmark runs."""

from dataclasses import dataclass

from adapterdistill.backbone import Encoder, load_encoder


@dataclass(frozen=True)
class Crew:
    """How cells are run."""

    processes: int
    encoder: str
    dtype: str
    device: str
    max_tokens: int

    def load(self) -> Encoder:
        return load_encoder(
            self.encoder, dtype=self.dtype, device=self.device, max_tokens=self.max_tokens
        )
