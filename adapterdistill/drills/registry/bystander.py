"""An owner who publishes and reads as usual while others take more than their part.

Its reads run in a process of their own (this module as a program), so that they wait for the
registry alone and not for a drill that floods it.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from adapterdistill.drills.registry.acknowledged import Acknowledged
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.registry import Federation, RegistryProcess

MOST_TIMES = 3.0
UNNOTICED_S = 1.0
"""Whatever takes less is not counted as held up: the machine's own noise is as large."""
PATIENT_S = 30.0
_NAME = "bystander"
_PAUSE_S = 0.02


class Bystander:
    """The owner, whose reads are compared with those of undisturbed times."""

    def __init__(self, client: RegistryClient, credentials: Path) -> None:
        self._client, self._credentials = client, credentials
        self._told = Acknowledged(_NAME)
        self.publish = partial(self._told.publish, client)
        self.publish()
        self.note = ""

    @classmethod
    @contextmanager
    def of(cls, federation: Federation, server: RegistryProcess) -> "Iterator[Bystander]":
        """Enrol the owner and connect it."""
        credentials = federation.credentials(_NAME)
        with RegistryClient(server.address, timeout_s=PATIENT_S, credentials=credentials) as client:
            yield cls(client, credentials)

    def reads(self, seconds: float) -> list[float]:
        """Measure the seconds that each of its reads takes, for so long."""
        name = self._told.versions[0][0].ref.name
        asked = [self._client.address, str(self._credentials), name, str(seconds)]
        done = subprocess.run(
            [sys.executable, "-m", __name__, *asked], stdout=subprocess.PIPE, check=True
        )
        found: list[float] = json.loads(done.stdout)
        return found

    def findings(
        self, before: list[float], amid: list[float], afterwards: list[float]
    ) -> list[str]:
        """A finding if its reads were held up; keeps the figures for the drill's note.

        The machine may be slow for another reason: what is usual is the slower of two times.
        """
        usual, now = max(_p99(before), _p99(afterwards)), _p99(amid)
        self.note = (
            f"p99 of a fetch {usual * 1000:.0f} ms undisturbed, {now * 1000:.0f} ms amid it,"
            f" {now / usual:.1f} times as long"
        )
        if now > max(MOST_TIMES * usual, UNNOTICED_S):
            return [f"another owner was held up: {self.note}"]
        return [*self._told.findings(self._client)]


def _p99(took: list[float]) -> float:
    return statistics.quantiles(took, n=100)[98] if len(took) > 1 else took[0]


def _read(address: str, credentials: str, name: str, seconds: str) -> list[float]:
    """Fetch again and again on an open connection; return the seconds of each fetch."""
    took, ref = list[float](), VersionRef.parse(name)
    with RegistryClient(address, timeout_s=PATIENT_S, credentials=Path(credentials)) as client:
        client.fetch(ref)
        end = time.monotonic() + float(seconds)
        while time.monotonic() < end:
            began = time.monotonic()
            client.fetch(ref)
            took.append(time.monotonic() - began)
            time.sleep(_PAUSE_S)
    return took


if __name__ == "__main__":
    print(json.dumps(_read(*sys.argv[1:])))
