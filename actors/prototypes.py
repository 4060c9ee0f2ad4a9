"""Prototypes of a task over domains, which a run may share: the tenant's and its teachers'."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from adapterdistill.actors.privacy.secret import derive_secret
from adapterdistill.backbone import Encoder
from adapterdistill.config import OnboardConfig
from adapterdistill.data.tasks import Task
from adapterdistill.distill.meta_kd.shared_prototypes import share_prototypes
from adapterdistill.distill.meta_kd.tasks import Domains, domains_of
from adapterdistill.distill.multitask_kd.task_teachers import task_texts
from adapterdistill.errors import ConfigError
from adapterdistill.files import write_atomically
from adapterdistill.manifest import MAX_PROTOTYPE_BYTES, SharedPrototypes

_TEACHERS = "prototypes.json"
_BY_NAME = TypeAdapter(dict[str, SharedPrototypes])


def require_shareable(encoder: Encoder, tasks: Sequence[Task]) -> None:
    """Raises ConfigError if a manifest cannot hold the prototypes of the task over domains."""
    task, domains = _task_to_share(tasks)
    cells = domains.number * len(task.classes)
    nothing = base64.b64encode(bytes(2 * cells * encoder.embedding_size)).decode()
    try:
        SharedPrototypes(
            classes=task.classes,
            domains=domains.number,
            counts=(0,) * cells,
            width=encoder.embedding_size,
            means=nothing,
            noise=0,
        )
    except ValidationError:
        raise ConfigError(
            f"tasks/{task.name}.jsonl: {len(task.classes)} classes in {domains.number} domains of "
            f"width {encoder.embedding_size} are more than {MAX_PROTOTYPE_BYTES} bytes, or a "
            "class's name has over 100 characters: have fewer, or set meta.share_prototypes = false"
        ) from None


def own_prototypes(
    config: OnboardConfig, encoder: Encoder, tasks: Sequence[Task]
) -> SharedPrototypes | None:
    """Prototypes of the task over domains, with noise if asked; None unless the run shares."""
    if config.noise is None:
        return None
    task, domains = _task_to_share(tasks)
    texts = task_texts(task.train, task, encoder)
    return share_prototypes(
        encoder.embed_ids(texts.ids).cpu(),
        texts.labels,
        task.classes,
        domains=domains.of_row,
        noise=config.noise,
        seed=_noise_seed(config, config.noise, task),
    )


def keep_prototypes(folder: Path, found: Mapping[str, SharedPrototypes]) -> None:
    """Write what the teachers share, by version name, to the run's folder."""
    write_atomically(folder / _TEACHERS, _BY_NAME.dump_json(dict(found)))


def kept_prototypes(folder: Path) -> tuple[SharedPrototypes, ...]:
    """Read what `keep_prototypes` wrote."""
    return tuple(_BY_NAME.validate_json((folder / _TEACHERS).read_bytes()).values())


def _task_to_share(tasks: Sequence[Task]) -> tuple[Task, Domains]:
    found = [(task, domains) for task in tasks if (domains := domains_of(task)) is not None]
    if len(found) != 1:
        raise ConfigError(
            f"meta.share_prototypes shares one task's, {len(found)} tasks name domains: leave the "
            "field domain out of the others, or set it to false"
        )
    return found[0]


def _noise_seed(config: OnboardConfig, noise: float, task: Task) -> int:
    """A secret seed for the noise on the prototypes of these rows."""
    made_from = [asdict(task), config.encoder.model_dump(mode="json"), noise]
    return int.from_bytes(derive_secret(config, "prototypes", *made_from))
