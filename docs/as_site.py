"""A hook of mkdocs: what a page links to beside docs/ is told as the file that it is.

On the site there is no `examples/` or `deploy/`; a link there would lead nowhere.
"""

import re
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).parent
_ROOT = _DOCS.parent
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page's text with links that leave docs/ as names of files.

    Raises:
        FileNotFoundError: A link leads to a file that is not there.
    """
    folder = (_DOCS / page.file.src_path).parent

    def told(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(_DOCS):
            return link[0]
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_path} links to {link[2]}, which is not there")
        return f"{link[1]} (`{target.relative_to(_ROOT)}`)"

    return _LINK.sub(told, markdown)
