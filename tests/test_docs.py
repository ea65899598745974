"""What the docs say is what the code says."""

from __future__ import annotations

import configparser
import importlib.util
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from tests.factories import make_settings
from twin_sio import errors, protocol
from twin_sio.config import REMOVED, ConfigError, ScoreWeights, Settings, Tuning

ROOT = Path(__file__).parent.parent


def _docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tool", ROOT / "tools" / "docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DOCS = _docs()


@pytest.mark.parametrize("part", DOCS.PARTS)
def test_the_generated_tables_are_current(part: str) -> None:
    text = (ROOT / DOCS.PARTS[part][0]).read_text()
    assert DOCS.rendered(text, part) == text, "run: .venv/bin/python tools/docs.py"


@pytest.mark.parametrize("name", DOCS.FILES)
def test_the_generated_files_are_current(name: str) -> None:
    assert (ROOT / name).read_text() == DOCS.FILES[name](), "run: .venv/bin/python tools/docs.py"


def test_every_error_code_is_explained() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    assert codes
    assert [code for code in sorted(codes) if f"`{code}`" not in text] == []


def test_every_local_link_of_the_docs_leads_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def _anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def test_every_link_to_a_heading_leads_to_one() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]
    lost = [
        f"{page.name}: {link}#{anchor}"
        for page in pages
        for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text())
        if (not link or link.endswith(".md")) and anchor not in _anchors(page.parent / link if link else page)
    ]
    assert lost == []


def test_the_extras_are_those_that_can_be_installed() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    table = (ROOT / "README.md").read_text().partition("## Extras")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert named == set(setup["options.extras_require"])


def test_contributing_names_files_that_exist() -> None:
    """Those of the code, by their path."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert [path for path in re.findall(r"`(twin_sio/[\w/]+\.py)`", text) if not (ROOT / path).exists()] == []


_COMPLETE = {
    "storage__mongodb_url": "mongodb://x",
    "storage__redis_url": "redis://x",
    "model__base_url": "http://x",
    "auth__jwt_secret": "a secret of one's own, of more than 32 bytes",
}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "TWIN_MONGODB_URL"),
        ({"storage__mongodb_url": "mongodb://x"}, "TWIN_REDIS_URL"),
        ({"storage__mongodb_url": "mongodb://x", "storage__redis_url": "redis://x"}, "OPENAI_API_KEY"),
        (
            {"storage__mongodb_url": "mongodb://x", "storage__redis_url": "redis://x", "model__base_url": "http://x"},
            "TWIN_JWT_SECRET",
        ),
        ({**_COMPLETE, "auth__jwt_secret": "too short"}, "TWIN_JWT_SECRET"),
        ({**_COMPLETE, "auth__jwt_previous_secrets": "x" * 32 + ",short"}, "TWIN_JWT_PREVIOUS_SECRETS"),
        ({"server__admin_ui_secret": "too short"}, "TWIN_ADMIN_UI_SECRET"),
        ({"server__trusted_proxies": "10.0.0.0/8 everybody"}, "TWIN_TRUSTED_PROXIES"),
        ({"auth__jwt_algorithms": "HS256 RS256"}, "TWIN_JWT_ALGORITHMS"),
        ({"auth__jwt_algorithms": "EdDSA", "auth__jwt_jwks_url": "https://idp.example.com"}, "TWIN_JWT_ALGORITHMS"),
        ({"auth__jwt_algorithms": "none", "auth__jwt_jwks_url": "https://idp.example.com"}, "TWIN_JWT_ALGORITHMS"),
    ],
)
def test_production_refuses_to_start_and_names_the_variable(given: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make_settings(process__env="production", **given).check()


def test_a_refused_variable_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_DRAIN_S", "a-secret-by-mistake")
    with pytest.raises(ConfigError) as refused:
        Settings.from_environment()
    assert "TWIN_DRAIN_S" in str(refused.value)
    assert "a-secret-by-mistake" not in str(refused.value)


@pytest.mark.parametrize("value", ["a-secret-by-mistake", '{"turn_lease_s": "a-secret-by-mistake"}', '{"other": 1}'])
def test_refused_tuning_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TWIN_TEST_TUNING", value)
    with pytest.raises(ConfigError, match="TWIN_TEST_TUNING") as refused:
        Settings.from_environment()
    assert "a-secret-by-mistake" not in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "replacement"),
    [
        ("TWIN_SCORE_EXPLICIT", "TWIN_SCORE_WEIGHTS='{\"explicit\": ...}'"),
        ("TWIN_TURN_LEASE_S", "the constant `Tuning.turn_lease_s`"),
        ("TWIN_MODEL_PRICE_READ", "twin_model_tokens_total"),
    ],
)
def test_removed_setting_is_refused_with_its_replacement(
    monkeypatch: pytest.MonkeyPatch, variable: str, replacement: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConfigError) as refused:
        Settings.from_environment()
    assert variable in str(refused.value)
    assert replacement in str(refused.value)


def test_removed_settings_name_constants_and_weights_that_exist() -> None:
    constants = [hint.split("`")[1].removeprefix("Tuning.") for hint in REMOVED.values() if "`Tuning." in hint]
    assert set(constants) == set(Tuning.model_fields)
    weights = {name.removeprefix("TWIN_SCORE_").lower() for name in REMOVED if name.startswith("TWIN_SCORE_")}
    assert weights == set(ScoreWeights.model_fields)


def test_merge_patch_is_rfc_7386() -> None:
    cases = [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ]
    for target, patch, expected in cases:
        assert protocol.merge_patch(target, patch) == expected
