"""Links between the repository's documents lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace_gateway.policy import policy

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted(
    str(path)
    for path in (found.relative_to(ROOT) for found in ROOT.rglob("*.md"))
    if not any(part.startswith(".") for part in path.parts)
)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def _anchors(document: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_of_a_document_lead_to_a_file_and_a_heading(document: str) -> None:
    source = ROOT / document
    text = CODE.sub("", source.read_text())
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = source.parent / path if path else source
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_every_public_method_has_a_line_in_the_grpc_document_and_every_line_a_method() -> None:
    text = (ROOT / "docs" / "grpc.md").read_text()
    told = {
        f"/{service}/{method}"
        for service, section in re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        for method in re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    }
    assert told == set(policy(reflection=None))


def test_each_decision_is_in_the_index_under_its_title() -> None:
    folder = ROOT / "docs" / "adr"
    index = dict(re.findall(r"\| \[\d+\]\((\S+)\) \| (.*) \|", (folder / "README.md").read_text()))
    titles: dict[str, str] = {}
    for path in sorted(folder.glob("0*.md")):
        number, title = path.read_text().splitlines()[0].removeprefix("# ").split(". ", 1)
        assert path.name.startswith(f"{int(number):04}-")
        titles[path.name] = title
    assert set(index) == set(titles)
    assert [name for name, title in index.items() if not titles[name].startswith(title)] == []
