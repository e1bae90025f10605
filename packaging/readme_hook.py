"""Make the relative links of README.md absolute in the description of the package, which PyPI shows."""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ReadmeHook(MetadataHookInterface):
    """Sets the field `readme`. `blob` shows a page, `raw` is the content of a picture."""

    def update(self, metadata: dict[str, dict[str, str]]) -> None:
        """Put the address of the project before each link to a file."""
        address, text = metadata["urls"]["Homepage"], (Path(self.root) / "README.md").read_text()
        text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)", rf"\1{address}/raw/main/", text)
        text = re.sub(r"(\]\()(?!https?:|#)", rf"\1{address}/blob/main/", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
