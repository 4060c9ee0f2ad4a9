"""A deployment that somebody runs and names in a TOML file, for drills that do it no harm."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from adapterdistill.drills.drill import Drill, Outcome
from adapterdistill.errors import ConfigError
from adapterdistill.manifest import Name
from adapterdistill.sections import LocalPath, RegistryConfig, Section


class NamedServing(Section):
    """A search endpoint, and the questions to ask."""

    address: str = "http://127.0.0.1:8000"
    tenant: Name
    queries: LocalPath
    """A text file with a question a line."""
    token_file: LocalPath | None = None


class NamedRay(Section):
    """The Ray cluster on which the endpoint's replicas run."""

    address: str = "auto"


class Named(Section):
    """Parts of the deployment; each drill says which sections it needs."""

    registry: RegistryConfig | None = None
    serving: NamedServing | None = None
    ray: NamedRay | None = None


@dataclass(frozen=True)
class OnNamed:
    """The form of a drill for a named deployment."""

    needs: tuple[str, ...]
    """Sections of `Named`."""
    run: Callable[[Named, random.Random], Outcome]


def load_named(file: Path) -> Named:
    """Raises ConfigError as `load_toml` does."""
    from adapterdistill.config import load_section  # torch: `drill --help` does without

    return load_section(file, Named)


def on_named(drill: Drill, ways: dict[str, OnNamed | str], named: Named, source: Path) -> Drill:
    """The drill on that deployment.

    Raises ConfigError: it is not done on one, or `source` names not all that it needs.
    """
    way = ways[drill.name]
    if isinstance(way, str):
        raise ConfigError(f"{drill.name} is not done on a named deployment: {way}")
    for section in way.needs:
        if getattr(named, section) is None:
            raise ConfigError(f"{source}: {drill.name} needs the section [{section}]")
    return replace(drill, run=lambda folder, draw, **sizes: way.run(named, draw))
