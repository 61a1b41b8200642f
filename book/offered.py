"""A Sphinx extension: links to what is made beside the site, where it has been made.

A page says `<span data-offer="tinygpt.pdf">a PDF</span>`. Where that file lies at the
root of the built site, the words become a link to it; elsewhere they stay words. The
programs that make such files (`pdf`, `slides`, `handout`) call `link_offers` too.
"""

import re
from pathlib import Path
from typing import Any

OFFER = re.compile(r'<span data-offer="([\w./-]+)">(.*?)</span>', re.DOTALL)


def link_offers(site: Path) -> None:
    """Link what is there, on all pages of a built site that offer something."""
    for page in sorted(site.glob("book/*.html")):
        text = page.read_text(encoding="utf-8")
        new = OFFER.sub(
            lambda offer: (
                f'<a href="../{offer[1]}">{offer[2]}</a>'
                if (site / offer[1]).is_file()
                else offer[0]
            ),
            text,
        )
        if new != text:
            page.write_text(new, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect(
        "build-finished",
        lambda app, error: None if error else link_offers(Path(app.outdir)),
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
