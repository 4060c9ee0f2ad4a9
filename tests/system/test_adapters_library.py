"""The `adapters` library, in an environment of its own, loads what `adapter export` writes.

torch is this environment's: that library needs an older transformers, and no other torch.
"""

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from adapterdistill.adapters.interchange import read_folder
from adapterdistill.backbone import Encoder
from adapterdistill.bench.training.peer import ADAPTERS
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.cli import adapter as command
from tests.serving_store import make_tenant, put_live

TEXTS = ["where is my parcel", "how do I pay", "hi"]
_LOAD = """
import json, sys
import adapters, torch
import torch.nn.functional as F
from transformers import BertModel
encoder, folder, back, rows = sys.argv[1:]
model = BertModel.from_pretrained(encoder).eval()
adapters.init(model)
name = model.load_adapter(folder, use_safetensors=True, set_active=True)
found = []
with torch.no_grad():
    for ids in json.loads(rows):
        hidden = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        found.append(F.normalize(hidden.mean(0), dim=0).tolist())
model.save_adapter(back, name, use_safetensors=True)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    wanted = [one for one in ADAPTERS.requirements if not one.startswith("torch")]
    wanted += ["huggingface-hub<1.0", "tokenizers<=0.23.0"]  # what that transformers needs
    install = ["-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "-q"]
    done = subprocess.run(
        [sys.executable, *install, "--no-deps", *wanted],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"{', '.join(wanted)} cannot be installed here")
    site = Path(sysconfig.get_path("purelib", vars={"base": folder}))
    (site / "zz-torch.pth").write_text(sysconfig.get_path("purelib"))  # after its own packages
    return python


def test_the_library_gives_the_same_vectors_and_the_same_adapter_back(
    python: Path, tmp_path: Path, tiny_encoder: Encoder, tiny_encoder_folder: Path
) -> None:
    made = make_tenant(tiny_encoder, "acme.shop", seed=3)
    put_live(tmp_path / "store", made)
    exported = tmp_path / "exported"
    arguments = ["export", str(tmp_path / "store" / "acme.shop"), str(exported)]
    done = CliRunner().invoke(command.app, arguments)
    assert done.exit_code == 0, done.output
    ids = tiny_encoder.tokenize(TEXTS, "query")
    back = tmp_path / "back"
    ran = subprocess.run(
        [python, "-c", _LOAD, tiny_encoder_folder, exported, back, json.dumps(ids)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = np.array(json.loads(ran.stdout.splitlines()[-1]))
    ours = tiny_encoder.embed_ids(ids, made.adapter).numpy()
    bare = tiny_encoder.embed_ids(ids).numpy()
    np.testing.assert_allclose(found, ours, atol=1e-5)
    assert np.abs(found - bare).max() > 1e-3  # the adapter acts
    adapter, _ = read_folder(back)
    for one, other in zip(adapter.parameters(), made.adapter.parameters(), strict=True):
        assert one.equal(other)
    imported = tmp_path / "payload"
    done = CliRunner().invoke(command.app, ["import", str(back), str(imported)])
    assert done.exit_code == 0, done.output
    payload = unpack_adapter(imported.read_bytes())
    assert payload.up_weight.equal(made.adapter.up_weight)
