"""Method `meta_kd`: a light student that learns its tasks over domains from meta-teachers."""

from collections.abc import Callable, Sequence

from pydantic import Field, model_validator
from torch import Tensor

from adapterdistill.data.tasks import Task
from adapterdistill.distill.meta_kd.tasks import Domains, MetaTasksDistillation, domains_of
from adapterdistill.distill.method import Cost
from adapterdistill.distill.multitask_kd.method import LightSections, LightSettings, MultitaskKd
from adapterdistill.distill.multitask_kd.objective import MultitaskDistillation
from adapterdistill.distill.multitask_kd.students import MultitaskModel
from adapterdistill.distill.multitask_kd.task_teachers import TaughtTasks
from adapterdistill.errors import ConfigError
from adapterdistill.manifest import SharedPrototypes
from adapterdistill.sections import Section


class MetaConfig(Section):
    """Section `meta`: what tenants may know of each other's domains."""

    share_prototypes: bool = False
    """Publish the mean embedding of each class in each domain of the task that names domains, and
    weigh its rows by those of the teachers that publish theirs, of the same classes."""
    noise: float = Field(default=0.0, ge=0, le=1000)
    """Standard deviation of what is added to each mean, over what one row can move it by."""

    @model_validator(mode="after")
    def _noise_needs_prototypes(self) -> "MetaConfig":
        if self.noise and not self.share_prototypes:
            raise ValueError(
                "noise is added to prototypes that are shared: set share_prototypes = true, or "
                "remove it"
            )
        return self


class MetaSections(LightSections):
    """The method's sections."""

    meta: MetaConfig = MetaConfig()

    @model_validator(mode="after")
    def _transformer(self) -> "MetaSections":
        if self.light.body == "bilstm":
            raise ValueError(
                "method meta_kd makes a Transformer, whose layers learn the teacher's: set "
                'light.body = "transformer", or training.method = "multitask_kd"'
            )
        return self


class MetaKd(MultitaskKd):
    """Learns each task over domains by Meta-KD's loss, the others as `multitask_kd` does."""

    sections = MetaSections
    cost = Cost(step=0.5, forward=1.0)

    def check_tasks(self, tasks: Callable[[], Sequence[Task]]) -> None:
        over_domains = [domains_of(task) for task in tasks()]  # each is checked
        if not any(over_domains):
            raise ConfigError(
                "no task in the tenant's folder tasks names domains: give the rows of one the "
                'field domain, or set training.method = "multitask_kd"'
            )

    def noise(self, sections: Section) -> float | None:
        assert isinstance(sections, MetaSections)
        return sections.meta.noise if sections.meta.share_prototypes else None

    def variant_settings(self, sections: Section, *, bottleneck_size: int) -> LightSettings:
        settings = super().variant_settings(sections, bottleneck_size=bottleneck_size)
        return settings.model_copy(update={"kind": "meta_kd"})

    def domains(self, task: Task, prototypes: Sequence[SharedPrototypes]) -> Domains | None:
        return domains_of(task, prototypes)

    def distillation(
        self, student: MultitaskModel, tasks: TaughtTasks, targets: Sequence[Tensor], *, seed: int
    ) -> MultitaskDistillation:
        lessons = [None, *tasks.lessons]  # the first task is the retrieval
        return MetaTasksDistillation(student, tasks.batches, targets, lessons, seed=seed)
