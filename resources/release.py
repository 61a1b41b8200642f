"""Put together what a release carries, in dist/: `make release` builds first.

    python resources/release.py [v0.2.0]

The source distribution, the wheel, the site as a zip, what is there for paper and for
class, and SHA256SUMS over all of them; NOTES.md is the version's part of CHANGELOG.md.
A tag that is not the version's stops it. What it leaves out: publishing, which is the
work of `.github/workflows/release.yml`.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import tinygpt

ROOT = Path(__file__).resolve().parent.parent
DIST, SITE = ROOT / "dist", ROOT / "book" / "_build" / "html"
BESIDES = ("*.pdf", "*.epub", "*/tinygpt-*.zip")  # for paper, and for a class
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of a zip: the same files give the same bytes


def notes(version: str) -> str:
    """What CHANGELOG.md says of a version; exits if that is nothing."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    parts = re.split(r"^## \[(.+?)\].*\n", text, flags=re.MULTILINE)
    told = dict(zip(parts[1::2], parts[2::2], strict=True)).get(version, "").strip()
    if not told:
        sys.exit(f"CHANGELOG.md says nothing of {version}: write its part first")
    return told + "\n"


def pack(folder: Path, target: Path) -> None:
    """A zip of all files below `folder`, in order, under the name of the zip."""
    deflated = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = f"{target.stem}/{path.relative_to(folder).as_posix()}"
            entry = zipfile.ZipInfo(name, FIRST_DAY)
            archive.writestr(entry, path.read_bytes(), deflated)


def main() -> None:
    """Build all of it."""
    version = tinygpt.__version__
    for tag in filter(None, sys.argv[1:]):
        if tag != f"v{version}":
            sys.exit(f"the tag {tag} is not v{version}: correct one of them")
    if not (SITE / "index.html").is_file():
        sys.exit("there is no site: run `make book` first")
    told = notes(version)
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(DIST)]
    subprocess.run(build, cwd=ROOT, check=True)
    pack(SITE, DIST / f"tinygpt-{version}-site.zip")
    for pattern in BESIDES:
        for path in SITE.glob(pattern):
            shutil.copy(path, DIST / path.name)
    files = sorted(DIST.iterdir())
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (DIST / "SHA256SUMS").write_text("".join(sums), encoding="utf-8", newline="\n")
    (DIST / "NOTES.md").write_text(told, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
