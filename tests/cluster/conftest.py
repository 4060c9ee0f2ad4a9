"""One local Ray for all cluster tests of a process: starting it takes seconds."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Ray reads these when it is imported, so they stand before the first import of it anywhere.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # otherwise one is put in the home folder
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # otherwise it listens on all interfaces
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"  # 2 s are long for these trainings
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "0"  # its metrics ports are fixed and on all interfaces
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """Address of a local Ray, an owner's node of 2 CPUs, that no dashboard and no other shares."""
    import ray

    # Workers import the packages from this tree, whatever is installed.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    # Short: Unix socket paths end at 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temp:
        context = ray.init(
            address="local",
            num_cpus=2,
            resources={"owner:here": 1},
            object_store_memory=100_000_000,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=temp,
        )
        try:
            yield context.address_info["address"]
        finally:
            ray.shutdown()
