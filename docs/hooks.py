"""What mkdocs needs beyond the pages: the API page, and links out of docs/ as plain file names.

On GitHub the pages are read as they are; the site holds no other file of the repository.
"""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(?:#[^)]*)?\)")
INTRO = """# API

Everything that `import nt_jax as nt` offers, from the docstrings. Names are imported when they are
first used. Letters at the end of an array's name are its axes: B batch, T tokens, L layers, F
neurons of a layer, D width, V vocabulary, P chosen neurons.

"""


def homes() -> dict[str, str]:
    """The public names and the modules that they live in, read from nt_jax/__init__.py."""
    tree = ast.parse((ROOT / "nt_jax" / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            return ast.literal_eval(node.value)
    raise ValueError("nt_jax/__init__.py has no _HOMES: docs/hooks.py makes the API page of it")


def on_files(files: Files, config: Any) -> Files:
    """Add the API page."""
    names = (f"::: {home}.{name}\n" for name, home in sorted(homes().items()))
    files.append(File.generated(config, "api.md", content=INTRO + "\n".join(names)))
    return files


def on_page_markdown(markdown: str, **about: Any) -> str:
    """Name files outside docs/ instead of linking to them."""
    return OUTSIDE.sub(lambda link: f"{link[1]} (`{link[2]}`)", markdown)
