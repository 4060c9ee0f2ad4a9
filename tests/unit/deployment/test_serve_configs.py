"""Serve's config files: against Ray's own schemas, this project's settings, and the app."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.config import AutoscalingConfig, gRPCOptions
from ray.serve.schema import ServeDeploySchema

from adapterdistill.errors import ConfigError
from adapterdistill.serve.app import REQUEST_TIMEOUT_S, build, deploy
from adapterdistill.serve.grpc import rpc_proxy
from adapterdistill.serve.settings import ServeSettings
from tests.unit.deployment.manifests import CLUSTER, every

NODES = CLUSTER / "nodes"


def configs() -> dict[str, str]:
    files = [CLUSTER / "serve.yaml", NODES / "serve.yaml"]
    found = {str(path.relative_to(CLUSTER)): path.read_text("utf-8") for path in files}
    [service, _] = every("RayService")
    return found | {"chart": service["spec"]["serveConfigV2"]}


@pytest.mark.parametrize(("name", "text"), configs().items(), ids=configs())
def test_a_shipped_config_is_serve_s_and_builds_the_app(name: str, text: str) -> None:
    config = yaml.safe_load(text)
    parsed = ServeDeploySchema.model_validate(config)
    [app] = parsed.applications
    assert app.import_path == "adapterdistill.serve.app:build" and app.route_prefix == "/"
    assert parsed.http_options.request_timeout_s
    assert "grpc_options" not in config  # Serve's gRPC has no TLS and listens everywhere
    # Within Kubernetes NetworkPolicies keep others out; elsewhere loopback does.
    assert (parsed.http_options.host == "0.0.0.0") == (name == "chart")
    settings = ServeSettings.of(app.args)
    assert Path(settings.store).is_absolute()
    # In Kubernetes the gateway knows who asks; elsewhere whoever asks has a token.
    assert settings.open_to_all == (name == "chart") == (settings.tokens is None)
    deployed: Any = build(app.args)
    assert {one.name for one in app.deployments} <= {deployed._bound_deployment.name}


def test_the_options_for_grpc_are_those_of_the_command_and_of_the_proxy_in_front() -> None:
    commented = (CLUSTER / "serve.yaml").read_text("utf-8").split("# grpc_options:\n")[1]
    lines = [line.removeprefix("# ") for line in commented.splitlines() if line[:4] == "#   "]
    config = yaml.safe_load("\n".join(lines))
    assert config == rpc_proxy.options(config["port"], REQUEST_TIMEOUT_S)
    options = gRPCOptions(**config)
    assert options.grpc_servicer_func_callable == [rpc_proxy.add_search_service]
    proxied = (CLUSTER / "tls" / "grpc.cfg").read_text("utf-8")
    assert f"server serve 127.0.0.1:{options.port} proto h2" in proxied
    assert f"--grpc-port {options.port}" in proxied
    proxied = (CLUSTER / "tls" / "haproxy.cfg").read_text("utf-8")
    served = yaml.safe_load((CLUSTER / "serve.yaml").read_text("utf-8"))["http_options"]
    assert f"server serve {served['host']}:{served['port']} check" in proxied


def test_replicas_on_several_nodes_are_pinned_to_those_that_serve() -> None:
    [app] = yaml.safe_load((NODES / "serve.yaml").read_text())["applications"]
    [search] = app["deployments"]
    assert search["ray_actor_options"]["num_cpus"] == app["args"]["num_cpus"]
    assert "serving" in search["ray_actor_options"]["resources"]
    assert '{"serving": 1}' in (NODES / "worker.sh").read_text()


def test_replicas_come_and_go_with_the_requests_at_a_time() -> None:
    parsed = ServeDeploySchema.model_validate(yaml.safe_load((NODES / "serve.yaml").read_text()))
    [app] = parsed.applications
    [search] = app.deployments
    scaling = AutoscalingConfig.model_validate(search.autoscaling_config)
    assert 2 <= scaling.min_replicas < scaling.max_replicas
    deployed: Any = build(app.args)
    options = deployed._bound_deployment._deployment_config
    # Else Serve would hold requests back before it asks for another replica.
    assert scaling.target_ongoing_requests < options.max_ongoing_requests
    assert "num_replicas" not in app.args


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1"])
def test_nothing_is_deployed_beyond_loopback_that_has_no_tokens(host: str) -> None:
    with pytest.raises(ConfigError, match="open_to_all: true"):
        deploy({"store": "/bundles"}, host=host)


def test_the_file_for_ray_up_is_what_ray_accepts(tmp_path: Path) -> None:
    path = NODES / "cluster.yaml"
    config = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert sum("cluster/nodes/start.sh" in command for command in commands) == 2
