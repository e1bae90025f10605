"""Sessions in the format of earlier clinvks: one JSON file each."""

import json
from pathlib import Path

HANDLE = "00000000-0000-4000-8000-9{number:011}"


def earlier_sessions(home: Path, count: int, first: int = 0) -> dict[Path, bytes]:
    """Write some into a clinvk home, each used a day after the one before; give each file with what is in it."""
    folder = home / "sessions"
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[Path, bytes] = {}
    for number in range(first, first + count):
        file = folder / f"{number:032x}.json"
        files[file] = json.dumps(
            {
                "id": file.stem,
                "backend": "claude",
                "created_at": "2026-01-01T10:30:00.123456789+01:00",
                "last_used": f"2026-01-{number % 28 + 1:02}T10:30:00.123456789+01:00",
                "working_dir": str(home.parent),
                "backend_session_id": HANDLE.format(number=number),
                "initial_prompt": f"earlier prompt {number}",
                "status": "active",
                "turn_count": 2,
                "token_usage": {"input_tokens": 24, "output_tokens": 10, "cached_tokens": 4},
            }
        ).encode()
        file.write_bytes(files[file])
    return files
