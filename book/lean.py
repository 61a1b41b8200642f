"""A Sphinx extension: the site's scripts without what only their readers need.

The scripts of book/_static are written to be read, and a third of them is comments and
spaces. A browser needs neither, so the build takes both out of what it publishes. Names
and lines stay as they are, and the pages link to the sources themselves. (rjsmin leaves
what stands within a template as it is, which here is whole workers, and has wheels for
Linux only.) What it leaves out: data, other people's scripts.
"""

import re
from pathlib import Path
from typing import Any

STATIC = Path(__file__).resolve().parent / "_static"
# What may stand before a regular expression, while a division follows a value.
BEFORE_REGEX = re.compile(
    r"(?:^|[(,=:\[!&|?{};+*%<>~^-]|\b(?:return|typeof|case|of|in))$"
)
TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
    |(?P<regex>/(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/[a-z]*)
    |(?P<space>[ \t]*\n\s*)
    |(?P<word>[\w$]+|[ \t]+|.)""",
    re.DOTALL | re.VERBOSE,
)
TEMPLATE = re.compile(r"(?:\\.|\$(?!\{)|[^`\\$])*(`|\$\{)", re.DOTALL)


def lean(source: str) -> str:
    r"""A script that does the same, without comments, empty lines and most spaces.

    >>> lean("f(1 + a);  // one\n\n  g(/[/]*/u, `// ${h('/*')} */`);\n")
    "f(1+a);\ng(/[/]*/u,`// ${h('/*')} */`);\n"
    """
    kept: list[str] = []
    at, braces = 0, [0]  # open braces of the code, and of each ${ } around it

    def template() -> None:
        nonlocal at
        end = TEMPLATE.match(source, at)
        assert end, "a template without an end"
        kept.append(end[0])
        at = end.end()
        if end[1] == "${":
            braces.append(0)

    while at < len(source):
        token = TOKEN.match(source, at)
        assert token
        kind, text = token.lastgroup, token[0]
        before = "".join(kept[-4:]).rstrip()
        if kind == "regex" and not BEFORE_REGEX.search(before):
            kind, text = "word", "/"
        at += len(text)
        if kind == "comment":
            continue
        if text.isspace() and kind == "word":
            if _needs_space(before, source[at : at + 1]):
                kept.append(" ")
        elif kind == "space":
            while kept and kept[-1].isspace() and kept[-1] != "\n":
                kept.pop()
            if kept and kept[-1] != "\n":
                kept.append("\n")
        else:
            kept.append(text)
        if text == "`":
            template()
        elif text == "{":
            braces[-1] += 1
        elif text == "}" and braces[-1]:
            braces[-1] -= 1
        elif text == "}":
            braces.pop()
            template()
    return "".join(kept).strip() + "\n"


def _needs_space(before: str, after: str) -> bool:
    """Whether two tokens would become one, or something else, without it."""
    ends = before[-1:] + after
    return re.fullmatch(r"[\w$]{2}|\+\+|--", ends) is not None or "/" in ends


def finish(app: Any, error: Exception | None) -> None:
    """Called when the site stands."""
    if error is not None or app.builder.format != "html":
        return
    for path in STATIC.glob("*.js"):
        published = Path(app.outdir) / "_static" / path.name
        published.write_text(lean(path.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
