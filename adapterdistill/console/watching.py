"""What an endpoint and a registry say of themselves over HTTP: numbers and names, never a text."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ValidationError

from adapterdistill.errors import AdapterDistillError, ServingError
from adapterdistill.serving.http import get

_AT_ONCE = 8
_PREFIX = "adapterdistill_"


class _Quality(BaseModel):
    queries: int
    expected_error: float
    expected_error_bound: float


class _Drift(BaseModel):
    queries: int
    share_abstained: float | None
    psi: float | None
    drifted: bool


class _Adapter(BaseModel):
    version: str


class Status(BaseModel):
    """What is shown of `serve.http.schema.TenantStatus`, whose module imports torch."""

    adapter: _Adapter
    quality: _Quality | None
    drift: _Drift


class Health(NamedTuple):
    """Whether a tenant is answered, and how well."""

    state: Literal["ok", "fails", "unknown"]
    said: str
    """Why it is not answered, or not known to be."""
    status: Status | None = None


class Figure(NamedTuple):
    """A number that is measured."""

    name: str
    labels: str
    value: float
    what: str


def health_of(address: str, tenants: Iterable[str], token: str | None) -> dict[str, Health]:
    """Ask an endpoint for the state of each tenant."""

    def ask(tenant: str) -> Health:
        try:
            answer = get(address, f"/v1/tenants/{tenant}", bearer(token))
            if answer.is_success:
                return Health("ok", "", Status.model_validate_json(answer.content))
            said = str(answer.json()["message"])
            # An operator's token opens the metrics, not a tenant's own paths.
            return Health("unknown" if answer.status_code == 401 else "fails", said)
        except AdapterDistillError as error:
            return Health("fails", str(error))
        except (ValidationError, ValueError, KeyError, TypeError):
            return Health("fails", f"{address} is not an AdapterDistill server")

    named = list(tenants)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(named, pool.map(ask, named), strict=True))


def figures_of(address: str, token: str | None) -> list[Figure]:
    """Read the metrics at an address.

    Raises:
        ServingError: there is no answer, or it holds no metrics.
    """
    answer = get(address, "/metrics", bearer(token))
    if not answer.is_success:
        raise ServingError(f"{address} answered {answer.status_code} when asked for its metrics")
    try:
        families = [*text_string_to_metric_families(answer.text)]
    except ValueError:
        raise ServingError(f"{address}/metrics holds no metrics for Prometheus") from None
    return [figure for one in families if one.name.startswith(_PREFIX) for figure in _read(one)]


def _read(family: Metric) -> Iterator[Figure]:
    """The values of a metric; of a histogram, its count and mean."""
    name = family.name.removeprefix(_PREFIX)
    if family.type != "histogram":
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                yield Figure(name, _labels(sample.labels), sample.value, family.documentation)
        return
    ends: dict[str, dict[str, float]] = {"_count": {}, "_sum": {}}
    for sample in family.samples:
        end = sample.name.removeprefix(family.name)
        if end in ends:
            ends[end][_labels(sample.labels)] = sample.value
    for labels, count in ends["_count"].items():
        yield Figure(f"{name}: number", labels, count, family.documentation)
        if count:
            mean = ends["_sum"].get(labels, 0.0) / count
            yield Figure(f"{name}: mean", labels, mean, family.documentation)


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in labels.items() if value)


def bearer(token: str | None) -> dict[str, str]:
    """The headers of a request with a token."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}
