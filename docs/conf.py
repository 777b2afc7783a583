"""The documentation site. Build it with `sphinx-build -W --keep-going docs BUILD_FOLDER`.

Files outside this folder are pages by inclusion, so that nothing is written twice. Pages that are made of other things,
the help of the commands, the list of claims and the notebooks, are written to `generated/` when the build starts. The
build runs the notebooks, in a minute with `SEGREFINE_NOTEBOOKS=quick`, and fails where one of their cells does.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from segrefine.cli.main import COMMANDS

DOCS = Path(__file__).resolve().parent
CHECKOUT = DOCS.parent
NOTEBOOKS = CHECKOUT / "notebooks"
CLAIMS = sorted(CHECKOUT.glob("experiments/claims/*/README.md"))
SOURCE = "https://github.com/segrefine/segrefine/blob/main"

project = "segrefine"
author = "the segrefine authors"
copyright = author
release = importlib.metadata.version("segrefine")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
if os.environ.get("SEGREFINE_INTERSPHINX"):  # links to the documentation of others need a network
    extensions.append("sphinx.ext.intersphinx")
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "torch": ("https://docs.pytorch.org/docs/stable", None),
    "lightning": ("https://lightning.ai/docs/pytorch/stable", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "pandas": ("https://pandas.pydata.org/docs", None),
}

exclude_patterns = ["_build"]
highlight_language = "text"  # of blocks that name none
default_role = "code"  # single backticks in docstrings
myst_heading_anchors = 3

nitpicky = True
nitpick_ignore = [("py:class", "segrefine.core.registry.Class")]  # a TypeVar
nitpick_ignore_regex = [("py:.*", r"(?!segrefine\.).*")]  # names of other packages, see intersphinx above
autodoc_inherit_docstrings = False  # Lightning's refer to its own pages
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_use_ivar = True
napoleon_numpy_docstring = False

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 1800  # seconds a cell; the tour trains two networks in one

html_theme = "furo"
html_title = f"segrefine {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False


def write_pages(app: Sphinx) -> None:
    """Write the page of the commands' help, a page that includes each claim, and copies of the notebooks."""
    folder = DOCS / "generated"
    (folder / "claims").mkdir(parents=True, exist_ok=True)
    blocks = [f"## segrefine {command}\n\n```text\n{read_help(command)}\n```\n" for command in COMMANDS]
    head = "# Commands\n\nWhat `segrefine COMMAND --help` prints. [Options](../options.md) lists every option.\n"
    (folder / "commands.md").write_text("\n".join([head, *blocks]), encoding="utf-8")
    for claim in CLAIMS:
        place = f"../../../{claim.relative_to(CHECKOUT).as_posix()}"
        page = f"```{{include}} {place}\n:relative-images:\n```\n"
        (folder / "claims" / f"{claim.parent.name}.md").write_text(page, encoding="utf-8")
    for notebook in NOTEBOOKS.glob("*.ipynb"):
        cells = re.sub(r"\]\(#[^)]*\)", rename_anchor, notebook.read_text(encoding="utf-8"))
        (folder / notebook.name).write_text(cells, encoding="utf-8")


def rename_anchor(link: re.Match[str]) -> str:
    """Return a link to a heading by the name that MyST gives the heading, from one by Jupyter's."""
    return f"](#{re.sub(r'[^a-z0-9-]', '', link[0].lower())})"


def read_help(command: str) -> str:
    """Return what `segrefine COMMAND --help` prints."""
    words = [sys.executable, "-m", "segrefine", command, "--help"]
    return subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()


def find_page(file: Path) -> str | None:
    """Return the page that a file of the checkout is, or that includes it; None if there is none."""
    pages = {CHECKOUT / "CONTRIBUTING.md": "contributing", CHECKOUT / "experiments/README.md": "results"}
    pages |= {claim: f"generated/claims/{claim.parent.name}" for claim in CLAIMS}
    if file.is_relative_to(DOCS) and file.suffix == ".md":
        return file.relative_to(DOCS).with_suffix("").as_posix()
    return pages.get(file)


def lead_on(app: Sphinx, doctree: nodes.document) -> None:
    """Lead links from included files, and to files that are no pages, to the page or to the file in the repository."""
    for link in [*doctree.findall(addnodes.pending_xref), *doctree.findall(addnodes.download_reference)]:
        name, _, anchor = link["reftarget"].partition("#")
        if link.get("reftype") != "myst" or not name:
            continue
        found = link.get("refdomain") == "doc"  # by MyST, which takes the ending off
        file = Path(os.path.normpath(DOCS / f"{name}.md" if found else Path(str(link.source)).parent / name))
        if page := find_page(file):
            link["refdomain"], link["reftarget"] = "doc", page
            link["reftargetid"] = link.get("reftargetid") or anchor or None
        elif file.exists() and not file.is_relative_to(DOCS):
            address = f"{SOURCE}/{file.relative_to(CHECKOUT).as_posix()}"
            link.replace_self(nodes.reference("", "", *link.children, refuri=address))


def setup(app: Sphinx) -> None:
    """Register the functions above with Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("doctree-read", lead_on, priority=100)  # before Sphinx collects what is to be downloaded
