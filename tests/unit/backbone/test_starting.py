"""Processes that embed texts start without transformers."""

import subprocess
import sys

_PROGRAM = """
import sys
import adapterdistill.actors.onboarding, adapterdistill.serve.app, adapterdistill.serve.replica
from adapterdistill.backbone import load_encoder
assert load_encoder().embed_texts(["Where is my parcel?"]).shape == (1, 384)
assert "torch" in sys.modules
print(sorted({name.split(".")[0] for name in sys.modules} & {"transformers", "huggingface_hub"}))
"""


def test_serving_onboarding_and_loading_the_encoder_import_no_transformers() -> None:
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"
