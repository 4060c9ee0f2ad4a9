from pathlib import Path

import pytest
import yaml

from adapterdistill.errors import ConfigError
from adapterdistill.serve.settings import ServeSettings

CONFIG = Path(__file__).resolve().parents[3] / "cluster" / "serve.yaml"


def test_the_shipped_config_file_is_sound_and_listens_on_loopback_only() -> None:
    config = yaml.safe_load(CONFIG.read_text())
    [app] = config["applications"]
    assert app["import_path"] == "adapterdistill.serve.app:build"
    assert Path(ServeSettings.of(app["args"]).store).is_absolute()
    assert config["http_options"]["host"] == "127.0.0.1"
    assert config["http_options"]["request_timeout_s"] > 0
    assert "grpc_options" not in config


@pytest.mark.parametrize(
    ("args", "setting"),
    [
        ({}, "store"),
        ({"store": "relative/path"}, "store"),
        ({"store": "/bundles", "tokens": "tokens.json"}, "tokens"),
        ({"store": "/bundles", "dtype": "float64"}, "dtype"),
        ({"store": "/bundles", "threads": 0}, "threads"),
        ({"store": "/bundles", "max_queued": 1}, "max_queued"),
        ({"store": "/bundles", "max_queued_of_tenant": 63}, "max_queued_of_tenant"),
        ({"store": "/bundles", "request_timeout_s": 0}, "request_timeout_s"),
        ({"store": "/bundles", "treads": 2}, "treads"),
        ({"store": "/bundles", "other_encoders": ["minilm-l6"]}, "other_encoders: names an enc"),
        ({"store": "/bundles", "encoder_mib": 0}, "encoder_mib"),
        ({"store": "/bundles"}, "tokens: .* open_to_all: true"),
        ({"store": "/bundles", "tokens": "/tokens.json", "open_to_all": True}, "either tokens"),
    ],
)
def test_a_wrong_setting_is_named(args: dict[str, object], setting: str) -> None:
    with pytest.raises(ConfigError, match=setting):
        ServeSettings.of(args)
