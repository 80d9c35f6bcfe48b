"""The lock of CI: every requirement pinned and hashed, nothing missing, no place named."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / ".ci" / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = {
    canonicalize_name(found["name"]): found["version"]
    for found in re.finditer(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)", TEXT, flags=re.MULTILINE)
}


def asked(extra: str) -> list[Requirement]:
    """What an extra of this project asks for, other extras of it followed."""
    found = []
    for text in PROJECT["project"]["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == "ndsnn":
            for other in requirement.extras:
                found += asked(other)
        else:
            found.append(requirement)
    return found


def require_pinned(requirement: Requirement, why: str) -> None:
    name = canonicalize_name(requirement.name)
    assert name in PINS, f"{why} asks for {requirement}, which is not in the lock; run make lock"
    fits = requirement.specifier.contains(PINS[name], prereleases=True)
    assert fits, f"{why} asks for {requirement}, the lock has {PINS[name]}; run make lock"


def test_every_line_is_a_pin_a_hash_or_a_remark():
    line = re.compile(r"#.*|[A-Za-z0-9._-]+==[\w.+!]+(?: ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}(?: \\)?")
    assert [text for text in TEXT.splitlines() if not line.fullmatch(text)] == []
    for entry in re.split(r"^(?=[A-Za-z0-9])", TEXT, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in entry, entry
    assert len(PINS) > 100


def test_no_place_is_named():
    assert not re.search(r"https?:|file:|@|/(?:home|root|tmp|opt|work)/|--(?:extra-)?index-url|--find-links", TEXT)


def test_everything_that_the_project_asks_for_is_pinned():
    wanted = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
    wanted += [Requirement(text) for text in PROJECT["build-system"]["requires"]]
    for requirement in (*wanted, *asked("test"), *asked("fuzz")):
        require_pinned(requirement, "pyproject.toml")


def test_everything_that_the_pinned_packages_ask_for_is_pinned():
    """Of those that are installed here in the pinned version."""
    seen = 0
    for name, version in PINS.items():
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if found.version != version:
            continue
        seen += 1
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                require_pinned(requirement, name)
    if not seen:
        pytest.skip("none of the pinned versions is installed here")
