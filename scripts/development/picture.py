"""Take the picture of the dashboard in README.md: ``python -m scripts.development.picture [FILE.png]``.

Migrates a made-up database on a throw-away server, and takes a screenshot of its dashboard with
Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
from alembic import command

from scripts.common.project import ROOT, configuration
from scripts.common.server import start_server
from scripts.development.sample_data import MEASURED, fill

PICTURE = ROOT / "docs" / "dashboard.png"
SIZE = "1200,830"
OPTIONS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars
    --disable-background-networking --disable-component-update --disable-sync"""


def take(into: Path) -> None:
    """Write the picture; an error of a program ends it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("error: Chromium is not installed. No picture was taken; apt install chromium")
    server = start_server()
    url = server.url("postgres")
    with psycopg.connect(url) as connection:
        fill(connection, MEASURED)
    command.upgrade(configuration(url), "head")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "dashboard.html"
        made = ("-m", "scripts.dashboard", "--url", url, "--out", page)
        subprocess.run([sys.executable, *made], check=True, cwd=ROOT)
        profile, shot = f"--user-data-dir={folder}/profile", f"--screenshot={into.resolve()}"
        window = [*OPTIONS.split(), profile, f"--window-size={SIZE}", shot, page.as_uri()]
        subprocess.run([chromium, *window], check=True, capture_output=True, timeout=120)


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
