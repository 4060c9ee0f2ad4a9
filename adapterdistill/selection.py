"""Choosing teachers among many adapters by short public fingerprints, without fetching them all.

An adapter reads hidden states x through its down-projections D_l, and reads texts of the subjects
that it learnt more strongly than others. Its fingerprint says how strongly it reads each probe text
that ships with the project: the mean of ||D_l x|| over layers and tokens on the frozen encoder,
standardised. Owners publish fingerprints. A new owner compares them with the position of its own
texts among the probes, which it tells nobody.

The idea is close to Arrow (arXiv 2405.11157), which routes by the directions that an adapter reads
most; their strengths on public texts fit into 256 bytes. The method is the project's own; its
benchmark is `adapterdistill bench selection`.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, pack
from adapterdistill.backbone.packed import mean_pool
from adapterdistill.errors import EncoderMismatchError
from adapterdistill.manifest import FINGERPRINT_BYTES, Fingerprint, canonical_json, sha256_hex

STEPS_PER_DEVIATION = 32
"""A fingerprint's bytes count 32nds of a standard deviation, up to four either way."""
TOLERANCE = 8
"""Largest difference, in these steps. With MiniLM, bfloat16 and float32 differed by one."""
AFFINITY_TEMPERATURE = 0.05
"""Temperature of the softmax over probes near a text. From 0.02 to 0.1 little changed."""
NEAR_COPY = 0.95
"""Correlation of fingerprints above which an adapter counts as a copy of another. Measured: at most
0.80 between 19 tenants, 0.92 between halves of one tenant's FAQs, 0.82 to 0.99 between
trainings of one tenant at other rates and lengths, 0.98 with noise of 40% added to the weights."""


@cache
def probe_texts() -> tuple[str, ...]:
    """Load the probe texts on many subjects, which ship with the project."""
    file = resources.files("adapterdistill.samples").joinpath("fingerprint_probes.json")
    return tuple(json.loads(file.read_text("utf-8")))


@cache
def probe_sha256() -> str:
    """Digest the probe texts: fingerprints of other probes cannot be compared with these."""
    return sha256_hex(canonical_json(probe_texts()))


class Probes:
    """The probe texts as one frozen encoder sees them, computed once."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._hidden: list[Tensor] = []
        self._tokens = pack(encoder.tokenize(probe_texts(), "probe"), encoder.device)

        def keep(layer: int, x: Tensor) -> Tensor:
            self._hidden.append(x)
            return torch.zeros_like(x)

        with torch.no_grad():
            self._embeddings = encoder.embed(self._tokens, keep)

    @torch.no_grad()
    def fingerprint(self, adapter: BottleneckAdapter) -> Fingerprint:
        """Compute the fingerprint that the adapter's owner publishes."""
        read = torch.zeros(len(self._tokens.row_of_token), device=self._encoder.device)
        for layer, x in enumerate(self._hidden):
            down = adapter.down_weight[layer].to(x.device)
            read += F.linear(x.float(), down).norm(dim=-1)
        of_probe = mean_pool(read[:, None], self._tokens)[:, 0]
        spread = of_probe.std().clamp(min=torch.finfo(torch.float32).tiny)
        steps = STEPS_PER_DEVIATION * (of_probe - of_probe.mean()) / spread
        values = steps.round().clamp(-127, 127).to(torch.int8).cpu()
        return Fingerprint.of(probe_sha256(), values.numpy().tobytes())

    def prove(self, adapter: BottleneckAdapter, fingerprint: Fingerprint) -> None:
        """Check that the adapter has its published fingerprint.

        Raises:
            EncoderMismatchError: the difference is larger than other arithmetic explains.
        """
        found, claimed = _values([self.fingerprint(adapter), fingerprint]).int()
        worst = int((found - claimed).abs().max())
        if fingerprint.probe_sha256 == probe_sha256() and worst > TOLERANCE:
            raise EncoderMismatchError(
                f"adapter reads the probe texts by up to {worst} steps other than its fingerprint"
                f" says (tolerance {TOLERANCE})"
            )

    def profile(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, " probes"]:
        """Locate rows of token ids among the probes: mean affinity, centred, unit length."""
        near = self._encoder.embed_ids(rows) @ self._embeddings.T / AFFINITY_TEMPERATURE
        return _centred(near.softmax(-1).mean(0)).cpu()


def by_relevance(
    profile: Float[Tensor, " probes"], fingerprints: Sequence[Fingerprint | None]
) -> Iterator[int]:
    """Order the places in `fingerprints`, the most relevant teacher first; each comes once.

    Relevance is the correlation of the profile with an adapter's fingerprint minus the mean of all.
    Near copies of earlier ones come after all others, so that they do not take their places. Those
    without a fingerprint of these probes come last. Equal ones keep their order.
    """
    known = [i for i, s in enumerate(fingerprints) if s and s.probe_sha256 == probe_sha256()]
    if known:
        own = _centred(_values([s for i in known if (s := fingerprints[i])]).float())
        own = _centred(own - own.mean(0))
        yield from (known[place] for place in _without_copies(own, own @ profile))
    seen = set(known)
    yield from (i for i in range(len(fingerprints)) if i not in seen)


def _without_copies(
    own: Float[Tensor, "adapters probes"], relevance: Float[Tensor, " adapters"]
) -> Iterator[int]:
    copies = torch.zeros(len(own), dtype=torch.bool)
    put_off = []
    for place in relevance.argsort(descending=True, stable=True).tolist():
        if copies[place]:
            put_off.append(place)
        else:
            yield place
            copies |= own @ own[place] > NEAR_COPY
    yield from put_off


def _centred(values: Tensor) -> Tensor:
    """Subtract each row's mean and scale it to unit length; constant rows become zero."""
    return F.normalize(values - values.mean(-1, keepdim=True), dim=-1)


def _values(fingerprints: Sequence[Fingerprint]) -> Int8[Tensor, "adapters probes"]:
    joined = bytearray(b"".join(fingerprint.to_bytes() for fingerprint in fingerprints))
    return torch.frombuffer(joined, dtype=torch.int8).view(-1, FINGERPRINT_BYTES)
