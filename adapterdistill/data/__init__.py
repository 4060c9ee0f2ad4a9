"""A tenant's private tables: format, checks, streaming, splits, tasks and import.

Nothing in here leaves the data owner.
"""

from adapterdistill.data.dataset import TenantDataset, find_faults, write_tenant
from adapterdistill.data.doubts import find_doubts
from adapterdistill.data.importing import Imported, import_samples, import_tenant, sample_names
from adapterdistill.data.schema import Faq, Fault, Query
from adapterdistill.data.splits import held_out, nested_order

__all__ = [
    "Faq",
    "Fault",
    "Imported",
    "Query",
    "TenantDataset",
    "find_doubts",
    "find_faults",
    "held_out",
    "import_samples",
    "import_tenant",
    "nested_order",
    "sample_names",
    "write_tenant",
]
