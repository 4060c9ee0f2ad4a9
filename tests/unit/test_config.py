"""What a run's TOML may say, and that every shipped one parses."""

from pathlib import Path

import pytest

from adapterdistill.config import OnboardConfig, load_toml
from adapterdistill.distill.conditional_distillation import ConditionalConfig
from adapterdistill.distill.multitask_kd.method import LightConfig
from adapterdistill.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "cluster" / "runs").glob("*.toml"))
GOOD = """
tenant = "acme"
data = "data/acme"
workspace = "work"
serving_store = "store"
[registry]
address = "127.0.0.1:5000"
"""


CONDITIONAL = '[training]\nmethod = "conditional"\n'
LIGHT = '[training]\nmethod = "multitask_kd"\n'
META = '[training]\nmethod = "meta_kd"\n'


def load(folder: Path, text: str | bytes) -> OnboardConfig:
    file = folder / "run.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_toml(file)


def test_the_least_that_a_run_must_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(tmp_path, GOOD)
    assert config.data == str(tmp_path / "data" / "acme")
    assert (config.adapter, config.encoder.name) == ("faq", "minilm-l6")
    assert config.registry.resolve() == "127.0.0.1:5000"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (GOOD.replace('tenant = "acme"', ""), "tenant: Field required"),
        (GOOD.replace("acme", "Not A Name", 1), "tenant:"),
        (GOOD.replace("[registry]", "[registre]"), "registre: is not a known key"),
        (GOOD + "[training]\nepochs = 3\n", "training.epochs: is not a known key"),
        (GOOD + "[training]\nseed = -1\n", "training.seed:"),
        (GOOD + "[training]\nbatch_size = 3\n", "training.batch_size:"),
        (GOOD + "[training]\nheld_out_fraction = 1.0\n", "training.held_out_fraction:"),
        (GOOD + "[training]\nextract_learning_rate = nan\n", "extract_learning_rate:"),
        (GOOD + "[training]\nextract_steps = 'many'\n", "training.extract_steps:"),
        (
            GOOD + '[training]\nmethod = "magic"\n',
            "training.method: Input should be 'averaged_teachers', 'adapter_distillation', "
            "'attention_distillation', 'conditional', 'multitask_kd' or 'meta_kd'",
        ),
        (GOOD + "[training]\nmethod = 3\n", "training.method: Input should be a valid string"),
        (GOOD + f"{CONDITIONAL}[conditional]\nsped = 2\n", "conditional.sped: is not a known key"),
        (GOOD + "[encoder]\nmax_tokens = 7\n", "encoder.max_tokens:"),
        (GOOD + '[encoder]\ndtype = "float16"\n', "encoder.dtype:"),
        (GOOD + "[teachers]\nmax_teachers = 257\n", "teachers.max_teachers:"),
        (GOOD + "[placement]\ntimeout_s = 0\n", "placement.timeout_s:"),
        (GOOD + '[release]\nmode = "half"\n', "release.mode:"),
        (GOOD + '[release]\nmode = "shadow"\nshare = 1.5\n', "release.share:"),
        (GOOD + "[release]\nshare = 0.5\n", "release: .*only a candidate has a share"),
        (GOOD + "[release]\nmax_wrong_answers = 0\n", "release.max_wrong_answers:"),
        (GOOD + "[release]\nmax_wrong_answers = 1.5\n", "release.max_wrong_answers:"),
        (GOOD + 'address_file = "port"\n', "registry: .*one of address and address_file"),
        (GOOD.replace("data/acme", "s3://bucket/acme"), "data: .*local path, not a URI"),
        (GOOD.replace("data/acme", "file:///acme"), "data: .*local path, not a URI"),
        (GOOD.replace("data/acme", "$NO_SUCH_VARIABLE/acme"), "data: .*variable that is not set"),
        (GOOD.replace("data/acme", ""), "data: .*not be empty"),
        (GOOD.replace("data/acme", "~no-such-user/x"), "data: .*home folder that is not known"),
        (
            GOOD + "[conditional]\n",
            r"\[conditional\] is for another method than averaged_teachers: remove it, or set "
            'training.method = "conditional"',
        ),
        (GOOD + f"[light]\n{CONDITIONAL}", r"\[light\] is for another method than conditional"),
        (GOOD + f"{CONDITIONAL}[conditional]\nspeed = 0.9\n", "conditional.speed:"),
        (
            GOOD + f"{CONDITIONAL}[conditional]\nspeed = 65\n[encoder]\nmax_tokens = 64\n",
            "encoder.max_tokens, 64: lower it",
        ),
        (GOOD + f"{CONDITIONAL}[conditional]\nmost_lost = -0.1\n", "conditional.most_lost:"),
        (GOOD + f"{LIGHT}[light]\nlayers = 0\n", "light.layers:"),
        (GOOD + f'{LIGHT}[light]\nbody = "gru"\n', "light.body:"),
        (GOOD + f"{LIGHT}num_workers = 2\n", "one worker: set training.num_workers to 0 or 1"),
        (GOOD + "[training]\nmin_workers = 1\n", "min_workers 1 is more than num_workers, 0"),
        (GOOD + f"{LIGHT}[meta]\n", r"\[meta\] is for another method than multitask_kd"),
        (GOOD + f"{META}[meta]\nnoise = 0.5\n", "meta: .*set share_prototypes = true, or remove"),
        (GOOD + f"{META}[meta]\nshare_prototypes = true\nnoise = -1\n", "meta.noise:"),
        (GOOD + f"{META}num_workers = 2\n", "method meta_kd trains in one worker"),
        (GOOD + f'{META}[light]\nbody = "bilstm"\n', 'set light.body = "transformer", or training'),
        ('language = "english"\n' + GOOD, "language: .*must be a BCP 47 language tag"),
        ('language = "en_GB"\n' + GOOD, "language: .*such as en, de-AT or zh-Hant"),
        (GOOD + '[teachers]\nlanguage = ""\n', "teachers.language: .*BCP 47"),
        ("tenant = ", "not TOML"),
        (b'tenant = "\xff"', "not TOML"),
        ("", "\n  tenant: Field required\n.*serving_store: Field required"),
    ],
)
def test_a_fault_names_file_and_key(tmp_path: Path, text: str | bytes, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)run\.toml:.*{named}"):
        load(tmp_path, text)


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        load_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="expected a file"):
        load_toml(tmp_path)


def test_paths_may_hold_variables_and_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEWHERE", str(tmp_path / "some where"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = GOOD.replace("data/acme", "$SOMEWHERE/acme").replace('"work"', '"~/work"')
    config = load(tmp_path, text)
    assert config.data == str(tmp_path / "some where" / "acme")
    assert config.workspace == str(tmp_path / "home" / "work")


def test_the_address_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "port"
    text = GOOD.replace('address = "127.0.0.1:5000"', f'address_file = "{file}"')
    registry = load(tmp_path, text).registry
    with pytest.raises(ConfigError, match=r"address_file .*No such file"):
        registry.resolve()
    for nothing in (b"", b"\n", b"\xff\xfe"):
        file.write_bytes(nothing)
        with pytest.raises(ConfigError, match="holds no host:port"):
            registry.resolve()
    file.write_text("127.0.0.1:6000\n")
    assert registry.resolve() == "127.0.0.1:6000"


def test_the_digest_is_of_what_decides_the_result(tmp_path: Path) -> None:
    base = load(tmp_path, GOOD).digest()
    elsewhere = GOOD.replace("data/acme", "other").replace("5000", "6000").replace('"work"', '"w"')
    assert load(tmp_path, elsewhere).digest() == base
    for change in ("[training]\nseed = 1\n", "[encoder]\nmax_tokens = 32\n"):
        assert load(tmp_path, GOOD + change).digest() != base


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *(("en", "en"), ("DE-at", "de-AT"), ("zh-hant-tw", "zh-Hant-TW"), ("es-419", "es-419")),
        *(("sl-ROZAJ", "sl-rozaj"), ("haw", "haw"), ("de-1996", "de-1996")),
    ],
)
def test_a_language_is_kept_in_its_usual_case_and_decides_no_result(
    tmp_path: Path, given: str, kept: str
) -> None:
    plain = load(tmp_path, GOOD)
    named = load(tmp_path, f'language = "{given}"\n{GOOD}')
    assert (plain.language, named.language) == ("und", kept)
    assert named.digest() == plain.digest()


def test_the_teachers_language_decides_the_result_where_it_is_given(tmp_path: Path) -> None:
    asked = load(tmp_path, GOOD + '[teachers]\nlanguage = "DE"\n')
    assert asked.teachers.language == "de"
    assert asked.digest() != load(tmp_path, GOOD).digest()


def test_a_method_needs_no_section_and_its_section_decides_the_result(tmp_path: Path) -> None:
    for method, section, variant in (
        (CONDITIONAL, "conditional", ConditionalConfig()),
        (LIGHT, "light", LightConfig()),
        (META, "light", LightConfig()),
    ):
        config = load(tmp_path, GOOD + method)
        assert config.variant == variant
        assert load(tmp_path, GOOD + method + f"[{section}]\n").digest() == config.digest()
        changed = load(tmp_path, GOOD + method + f"[{section}]\nsteps = 7\n")
        assert changed.digest() != config.digest()


def test_sharing_prototypes_is_off_unless_asked_for_and_decides_the_result(tmp_path: Path) -> None:
    digest = load(tmp_path, GOOD + META).digest()
    off = load(tmp_path, GOOD + META + "[meta]\nshare_prototypes = false\n")
    assert off.noise is None and off.digest() == digest
    on = load(tmp_path, GOOD + META + "[meta]\nshare_prototypes = true\n")
    noised = load(tmp_path, GOOD + META + "[meta]\nshare_prototypes = true\nnoise = 1\n")
    assert on.noise == 0 and noised.noise == 1 and len({digest, on.digest(), noised.digest()}) == 3


def test_the_digest_of_the_plain_method_is_what_it_was_before_there_were_others(
    tmp_path: Path,
) -> None:
    length = "[encoder]\nmax_tokens = 64\n"  # it was the default
    method = '[training]\nmethod = "adapter_distillation"\n'
    # The order of rows was public.
    config = load(tmp_path, GOOD + length + method + "public_seed = true\n")
    assert config.variant is None
    assert config.digest() != load(tmp_path, GOOD + length + method).digest()
    expected = "8217b20c18b6ae5bcfd1756e5f27ae9b87decd765c497f62dc803621f2c8219f"
    assert config.digest() == expected
    fewer = load(tmp_path, GOOD + "[training]\nnum_workers = 2\nmin_workers = 1\n")
    as_many = load(tmp_path, GOOD + "[training]\nnum_workers = 2\n")
    assert fewer.digest() == as_many.digest()


def test_the_averaged_teachers_are_the_method_of_a_run_that_names_none(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert (config.training.method, config.student_method) == ("averaged_teachers",) * 2
    named = load(tmp_path, GOOD + '[training]\nmethod = "averaged_teachers"\n')
    other = load(tmp_path, GOOD + '[training]\nmethod = "adapter_distillation"\n')
    assert config.digest() == named.digest() != other.digest()
    assert load(tmp_path, GOOD + LIGHT).student_method == "averaged_teachers"


def test_the_share_of_wrong_answers_decides_the_threshold_and_so_the_result(tmp_path: Path) -> None:
    plain = load(tmp_path, GOOD)
    strict = load(tmp_path, GOOD + "[release]\nmax_wrong_answers = 0.05\n")
    assert plain.release.max_wrong_answers is None
    assert strict.digest() != plain.digest()


def test_what_the_bundle_becomes_decides_no_result(tmp_path: Path) -> None:
    plain = load(tmp_path, GOOD)
    assert plain.release.mode == "live"
    tried = load(tmp_path, GOOD + '[release]\nmode = "canary"\nshare = 0.05\n')
    assert (tried.release.mode, tried.release.share) == ("canary", 0.05)
    assert tried.digest() == plain.digest()


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_run_parses(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERDISTILL_HOME", str(tmp_path))
    assert load_toml(file).tenant
