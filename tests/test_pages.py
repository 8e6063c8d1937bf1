"""Pages that exist in two languages say the same: the same code, pictures and headings, one by one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("docs/workflows.md",)


def parts(page: Path) -> dict[str, list[str]]:
    text = page.read_text("utf-8")
    code = re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return {
        "code": code,
        "pictures": re.findall(r"\]\((images/[^)]+)\)", prose),
        "headings": re.findall(r"^(#+) ", prose, re.MULTILINE),
        "rows": re.findall(r"^\| *`?([\w\[(<-][^|`]*)`", prose, re.MULTILINE),
    }


@pytest.mark.parametrize("name", PAGES)
def test_a_translated_page_has_the_same_code_and_pictures(name: str) -> None:
    page = ROOT / name
    assert parts(page.with_suffix(".zh-CN.md")) == parts(page)
    assert len(parts(page)["code"]) > 10


def test_both_readmes_lead_to_the_same_files() -> None:
    pages = ((ROOT / name).read_text("utf-8") for name in ("README.md", "README.zh-CN.md"))
    mine, theirs = (re.findall(r"\]\((src/[^)]+)\)", page) for page in pages)
    assert theirs == mine
    assert len(mine) > 20


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", *PAGES, "docs/workflows.zh-CN.md"])
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    page = ROOT / name
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8"))
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []
