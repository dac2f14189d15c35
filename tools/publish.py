"""What must be settled before the book goes online (CONTRIBUTING has the list).

address URL      carry a new repository address into every file that states it
authors NAME...  carry the authors' names into the files that state them
pictures         draw the favicon and the card that social media show
check            say what is still a placeholder; exit 1 if anything is
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATING = ("pyproject.toml", "_config.yml", "CITATION.cff", "README.md", "CONTRIBUTING.md")
PLACEHOLDER_OWNER, PLACEHOLDER_AUTHORS = "OWNER", "The sparsemat authors"


def address(root: Path = ROOT) -> str:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return project["urls"]["Repository"]


def slug(url: str) -> tuple[str, str]:
    """Owner and name of a repository.

    Raises:
        ValueError: The address is none of a GitHub repository.
    """
    match = re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?", url)
    if match is None:
        raise ValueError(f"the address must be https://github.com/OWNER/NAME, got {url}")
    return match.group(1), match.group(2)


def site(url: str) -> str:
    """Address of the pages that GitHub publishes for a repository."""
    owner, name = slug(url)
    return f"https://{owner.lower()}.github.io/{name}"


def write(path: Path, text: str) -> None:
    """Replace a file in one step, so that it is never half-written."""
    if path.exists() and path.read_text() == text:
        return
    partial = path.with_suffix(".tmp")
    partial.write_text(text)
    os.replace(partial, path)


def change_address(url: str, root: Path = ROOT) -> None:
    old, (owner, name) = address(root), slug(url)
    old_slug = "/".join(slug(old))
    pages = [*(root / "book").glob("*.md"), *(root / "notebooks").glob("*.ipynb")]
    for path in [*(root / name for name in STATING), *sorted(pages)]:
        if not path.exists():
            continue
        text = path.read_text()
        for before, after in (
            (f"github.com/{old_slug}", f"github.com/{owner}/{name}"),
            (f"github/{old_slug}", f"github/{owner}/{name}"),  # Colab links
            (site(old), site(url)),
            (f"urls_prefix: /{slug(old)[1]}/", f"urls_prefix: /{name}/"),
        ):
            text = re.sub(rf"{re.escape(before)}(?![\w-])", after, text)
        write(path, text)


def change_authors(names: list[str], root: Path = ROOT) -> None:
    """Names as "Given Family"; the last word is the family name."""
    config = root / "_config.yml"
    text = re.sub(r"^author: .*$", f"author: {', '.join(names)}", config.read_text(), flags=re.M)
    write(config, text)
    licence = root / "LICENSE"
    line = r"^(Copyright \(c\) \d+),? .*$"
    write(licence, re.sub(line, rf"\1, {', '.join(names)}", licence.read_text(), flags=re.M))
    entries = []
    for name in names:
        given, _, family = name.rpartition(" ")
        entries.append(f'  - given-names: "{given}"\n    family-names: "{family}"\n')
    citation = root / "CITATION.cff"
    block = r"^authors:\n(?:[ ]+.*\n)+"
    text = re.sub(block, f"authors:\n{''.join(entries)}", citation.read_text(), count=1, flags=re.M)
    write(citation, text)


def placeholders(root: Path = ROOT) -> list[str]:
    """What is still to be decided, in words."""
    found = []
    if slug(address(root))[0] == PLACEHOLDER_OWNER:
        found.append("the repository's address: tools/publish.py address URL")
    for name in ("_config.yml", "CITATION.cff", "LICENSE"):
        if PLACEHOLDER_AUTHORS.lower() in (root / name).read_text().lower():
            found.append(f"the authors' names in {name}: tools/publish.py authors NAME...")
    if not re.search(r"^doi:", (root / "CITATION.cff").read_text(), re.M):
        found.append("a DOI in CITATION.cff: archive a release, then add the line `doi: ...`")
    return found


def draw_pictures(root: Path = ROOT) -> None:
    """Favicon (64 x 64) and social card (1200 x 630), both from patterns."""
    import matplotlib.pyplot as plt

    import sparsemat as sm
    from sparsemat.plotting import spy

    static = root / "book" / "_static"
    icon = plt.figure(figsize=(0.64, 0.64), dpi=100)
    axes = icon.add_axes((0, 0, 1, 1))
    spy(sm.conv_pattern(1, 1, (3, 3), 2), axes, title="").axis("off")
    icon.savefig(static / "favicon.png", transparent=True)
    card = plt.figure(figsize=(12, 6.3), dpi=100, facecolor="#101418")
    card.text(0.06, 0.82, "Matrix is all you need, checked", fontsize=44, color="white")
    card.text(0.06, 0.73, "layers as sparsity patterns", fontsize=26, color="#b3bcc9")
    axes = card.add_axes((0.06, 0.06, 0.88, 0.6), facecolor="none")
    spy(sm.conv_pattern(1, 1, (6, 6), 3), axes, title="").axis("off")
    card.savefig(static / "card.png", facecolor=card.get_facecolor())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("address").add_argument("url", metavar="URL")
    commands.add_parser("authors").add_argument("names", nargs="+", metavar="NAME")
    commands.add_parser("pictures")
    commands.add_parser("check")
    chosen = parser.parse_args(arguments)
    if chosen.command == "check":
        missing = placeholders()
        print("\n".join(missing) or "nothing is a placeholder any more")
        return 1 if missing else 0
    try:
        if chosen.command == "pictures":
            draw_pictures()
        elif chosen.command == "address":
            change_address(chosen.url)
        else:
            change_authors(chosen.names)
    except ValueError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
