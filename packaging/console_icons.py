"""Make the icons of the installed console from icon.svg with Chromium: `python packaging/console_icons.py`."""

import os
import subprocess
import tempfile
from pathlib import Path

ASSETS = Path(__file__).parent.parent / "src" / "clinvk" / "api" / "console" / "assets"
SIZES = {"icon-192": 192, "icon-512": 512, "icon-maskable": 512}


def main() -> None:
    """Write an icon of each size. A maskable icon has square corners, since each system cuts its own shape."""
    icon = (ASSETS / "icon.svg").read_text()
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "icon.html"
        for name, size in SIZES.items():
            drawn = icon.replace('rx="14"', "") if name == "icon-maskable" else icon
            drawn = drawn.replace("<svg ", f'<svg width="{size}" height="{size}" style="display: block" ')
            page.write_text(f"<!doctype html><style>body {{ margin: 0 }}</style>{drawn}")
            shot = [f"--screenshot={ASSETS / name}.png", f"--window-size={size},{size}", "--hide-scrollbars"]
            flags = ["--headless", "--disable-gpu", "--default-background-color=00000000", *sandbox]
            user = f"--user-data-dir={folder}/profile"
            subprocess.run(["chromium", *flags, user, *shot, page.as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    main()
