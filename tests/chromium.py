"""A headless Chromium, spoken to by the DevTools protocol over a pipe: no driver and no library in between."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from copy import copy
from itertools import count
from pathlib import Path
from typing import Self

from polling import until
from standin.document import JSON, Record, record, string

NAMES = ("chromium", "chromium-browser", "google-chrome")
"""What the browser may be called."""

HEADLESS = ("--headless=new", "--no-sandbox") if os.geteuid() == 0 else ("--headless=new",)
"""The flags of a browser without a window. The sandbox does not work for root."""

_FLAGS = (
    *HEADLESS,
    *("--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--no-first-run", "--window-size=1200,1000"),
)

_AS_3_AND_4 = """
import os, sys
ends = [os.dup(int(word)) for word in sys.argv[1:3]]
for end, number in zip(ends, (3, 4)):
    os.dup2(end, number)
    os.set_inheritable(number, True)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Becomes the browser, with the pipes where it looks for them."""


def executable() -> str | None:
    """Return the path of a browser, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. `events` are the events of the browser, in all tabs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.events: list[Record] = []
        self._reader = reader
        self._writer = writer
        self._answers: dict[int, Record] = {}
        self._numbers = count(1)
        self._target = ""
        self._session: str | None = None

    async def open(self) -> None:
        """Open the tab, and enable the events for requests and errors."""
        self._target = string(await self.call("Target.createTarget", url="about:blank"), "targetId")
        attached = await self.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = string(attached, "sessionId")
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")

    async def another(self) -> Self:
        """Open another tab of the same browser."""
        page = copy(self)
        page._session = None
        await page.open()
        return page

    async def close(self) -> None:
        """Close the tab."""
        await self.call("Target.closeTarget", targetId=self._target)

    async def call(self, method: str, **params: JSON) -> Record:
        """Send a command and return its result."""
        number = next(self._numbers)
        message: Record = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        await until(lambda: number in self._answers, within_s=30)
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return record(answer, "result")

    async def evaluate(self, expression: str) -> JSON:
        """Return the value of a JavaScript expression."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return record(result, "result").get("value")

    async def until(self, expression: str, within_s: float = 30) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + within_s
        while not await self.evaluate(expression):
            if time.monotonic() > deadline:
                shown = await self.evaluate("document.body.innerText")
                raise AssertionError(f"it did not come true in time: {expression}\nThe page shows:\n{shown}")
            await asyncio.sleep(0.05)

    async def click(self, selector: str) -> None:
        """Click the first element of a selector, as soon as there is one."""
        await self.evaluate(f"{await self._element(selector)}.click()")

    async def point(self, selector: str) -> None:
        """Click the middle of the first element of a selector with the mouse, as soon as there is one."""
        box = await self._element(selector)
        place = f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({box}.getBoundingClientRect())"
        await self.evaluate(f"{box}.scrollIntoView({{block: 'nearest'}})")
        x, y = json.loads(json.dumps(await self.evaluate(place)))
        await self.click_at(x, y)

    async def click_at(self, x: float, y: float) -> None:
        """Click a place of the window with the mouse."""
        for kind, pressed in (("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 0)):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=pressed, clickCount=1
            )

    async def write(self, selector: str, text: str) -> None:
        """Replace the text of a field as a user does: by selecting it and typing."""
        await self.evaluate(f"{await self._element(selector)}.select()")
        await self.call("Input.insertText", text=text)

    async def _element(self, selector: str) -> str:
        """Wait for the first element of a selector, and return its expression."""
        element = f"document.querySelector({json.dumps(selector)})"
        await self.until(f"{element} !== null")
        return element

    def events_of(self, method: str) -> list[Record]:
        """Return the events of a kind so far."""
        return [record(event, "params") for event in self.events if event.get("method") == method]

    async def listen(self) -> None:
        """Receive the browser's messages until it exits."""
        while True:
            try:
                message: Record = json.loads((await self._reader.readuntil(b"\0"))[:-1])
            except asyncio.IncompleteReadError:
                return
            if isinstance(number := message.get("id"), int):
                self._answers[number] = message
            else:
                self.events.append(message)


@asynccontextmanager
async def browsing(folder: Path | None = None) -> AsyncGenerator[Page]:
    """Start a browser with an empty profile, in a folder if given; end it afterwards."""
    path = executable()
    assert path is not None
    loop = asyncio.get_running_loop()
    to_browser, ours_out = os.pipe()
    ours_in, from_browser = os.pipe()
    with tempfile.TemporaryDirectory(prefix="browser-", dir=folder, ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-ISc",
            _AS_3_AND_4,
            str(to_browser),
            str(from_browser),
            path,
            *_FLAGS,
            f"--user-data-dir={profile}",
            pass_fds=(to_browser, from_browser),
            env={"PATH": os.environ["PATH"], "HOME": profile},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        reader = asyncio.StreamReader(limit=64 * 1024 * 1024)
        read_end, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb")
        )
        write_end, protocol = await loop.connect_write_pipe(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), os.fdopen(ours_out, "wb")
        )
        page = Page(reader, asyncio.StreamWriter(write_end, protocol, None, loop))
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(page.listen())
                await page.open()
                yield page
                listening.cancel()
        finally:
            write_end.close()
            read_end.close()
            process.terminate()
            await asyncio.wait_for(process.wait(), 30)
