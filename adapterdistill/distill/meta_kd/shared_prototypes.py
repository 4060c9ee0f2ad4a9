"""Meta-KD with every domain's rows at their owner: only prototypes and adapters travel.

It differs from pooled Meta-KD: each owner trains an adapter on its own rows, weighted by how
typical they are among all owners' prototypes, and towards classes as the prototypes place them, so
that the adapters fit together and no head travels. A later owner composes the meta-teacher from the
others' adapters. No rows of two domains meet in a batch: there are no corrupted domains, and no
transferable feature.
"""

import base64
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from adapterdistill.distill.meta_kd.formulas import Prototypes
from adapterdistill.errors import ConfigError
from adapterdistill.manifest import SharedPrototypes

SHARPNESS = 30.0
"""Sharpness of the prototype head: classes of one subject lie close together on a frozen
encoder."""


def share_prototypes(
    embeddings: Float[Tensor, "rows d"],
    labels: Int[Tensor, " rows"],
    classes: Sequence[str],
    *,
    domains: Int[Tensor, " rows"] | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> SharedPrototypes:
    """The prototypes that an owner publishes of its rows.

    A class with a single row in a domain counts as one without rows: its mean would be that row's
    embedding.

    Args:
        embeddings: of the frozen encoder; longer ones are cut to length 1.
        domains: of each row; None: the owner is one domain.
        noise: see `Prototypes.noised`. Keep `seed` secret: whoever knows it can remove the noise.
    """
    clipped = embeddings / embeddings.norm(dim=-1, keepdim=True).clamp(min=1.0)
    of_row = torch.zeros_like(labels) if domains is None else domains
    number = 1 if domains is None else int(domains.max()) + 1
    own = Prototypes.of(clipped, labels, of_row, num_classes=len(classes), num_domains=number)
    shown = own.counts > 1
    own = Prototypes(own.means * shown[..., None], own.counts * shown)
    if noise:
        own = own.noised(noise, seed=seed)
    values = own.means.cpu().numpy().astype("<f2").tobytes()
    return SharedPrototypes(
        classes=tuple(classes),
        domains=number,
        counts=tuple(own.counts.flatten().tolist()),
        width=embeddings.shape[1],
        means=base64.b64encode(values).decode(),
        noise=noise,
    )


def read_prototypes(
    shared: Sequence[SharedPrototypes], classes: Sequence[str], *, width: int
) -> Prototypes:
    """All owners' prototypes, one domain or more each.

    Raises:
        ConfigError: there are fewer than two owners, one's classes or width are others, or a class
            has rows nowhere.
    """
    if len(shared) < 2:
        raise ConfigError(
            f"Meta-KD learns from several domains, got prototypes of {len(shared)}: fetch adapters "
            "whose manifests have some"
        )
    parts = []
    for place, one in enumerate(shared):
        if one.classes != tuple(classes) or one.width != width:
            raise ConfigError(
                f"prototypes {place} are of {len(one.classes)} classes and width {one.width}, not "
                f"of these {len(classes)} classes and width {width}: leave their owner out"
            )
        parts.append(prototypes_in(one))
    joined = Prototypes.joined(parts)
    for name, count in zip(classes, joined.counts.sum(0).tolist(), strict=True):
        if not count:
            raise ConfigError(f"no domain has rows of class {name!r}: leave it out")
    return joined


def prototypes_in(shared: SharedPrototypes) -> Prototypes:
    """One owner's prototypes."""
    values = np.frombuffer(shared.to_bytes(), dtype="<f2").astype(np.float32)
    shape = (shared.domains, len(shared.classes))
    means = torch.from_numpy(values).view(*shape, shared.width)
    return Prototypes(means, torch.tensor(shared.counts).view(shape))


class PrototypeHead(nn.Module):
    """Logits by distance from the classes' centres, the means of the domains' prototypes. Frozen.

    -`SHARPNESS` / 2 * ||e - c||^2 without the term that all classes share, e of unit length.
    """

    centres: Float[Tensor, "classes d"]

    def __init__(self, prototypes: Prototypes) -> None:
        super().__init__()
        domains = (prototypes.counts > 0).sum(0).clamp(min=1)
        self.register_buffer("centres", prototypes.means.sum(0) / domains[:, None])

    def forward(self, pooled: Float[Tensor, "rows d"]) -> Float[Tensor, "rows classes"]:
        unit = F.normalize(pooled, dim=-1)
        return SHARPNESS * (unit @ self.centres.T - self.centres.square().sum(-1) / 2)
