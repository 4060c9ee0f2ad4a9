"""The adapters that the outlier check compares a new one with."""

from adapterdistill.manifest import Manifest
from adapterdistill.registry.admission.weight_statistics import WeightStatistics
from adapterdistill.registry.index.database import Database

_ADAPTERS_A_TENANT = 4
_MAX_TENANTS = 250
# It steps from one tenant to the next by an index, so it does not read every version.
_STEPS_OVER_TENANTS = (
    "WITH RECURSIVE tenants (tenant) AS ("
    " SELECT min(tenant) FROM versions WHERE weights_sha256 = ?1 AND tokenizer_sha256 = ?2"
    " UNION ALL SELECT (SELECT min(tenant) FROM versions"
    " WHERE weights_sha256 = ?1 AND tokenizer_sha256 = ?2 AND tenant > tenants.tenant)"
    " FROM tenants WHERE tenant IS NOT NULL)"
)
_OF_TENANT = (
    "FROM versions WHERE weights_sha256 = ?1 AND tokenizer_sha256 = ?2"
    " AND tenant = t.tenant AND state = 'active' AND statistics_json IS NOT NULL"
    " ORDER BY revision DESC LIMIT ?4"
)
_NEWEST_OF_EACH = {
    "sqlite": (
        " SELECT tenant, statistics_json FROM versions WHERE revision IN ("
        " SELECT n.revision FROM tenants t JOIN versions n ON n.revision IN ("
        f" SELECT revision {_OF_TENANT}) WHERE t.tenant <> ?3 LIMIT ?5)"
    ),
    "postgresql": (
        " SELECT n.tenant, n.statistics_json FROM tenants t JOIN LATERAL ("
        f" SELECT tenant, statistics_json {_OF_TENANT}) n ON TRUE WHERE t.tenant <> ?3 LIMIT ?5"
    ),
}


def find_peers(db: Database, manifest: Manifest) -> list[tuple[str, WeightStatistics]]:
    """Find the adapters that a version of this manifest is compared with."""
    encoder = (manifest.encoder.weights_sha256, manifest.encoder.tokenizer_sha256)
    rows = db.execute(
        _STEPS_OVER_TENANTS + _NEWEST_OF_EACH[db.dialect],
        (*encoder, manifest.tenant, _ADAPTERS_A_TENANT, _ADAPTERS_A_TENANT * _MAX_TENANTS),
    )
    return [(tenant, WeightStatistics.model_validate_json(text)) for tenant, text in rows]
