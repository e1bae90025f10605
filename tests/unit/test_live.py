"""The live events of a server: numbers, resuming, and the limits of the buffer."""

import asyncio
import re
from contextlib import aclosing

import msgspec
import pytest

from clinvk.api.observe import live
from clinvk.api.observe.live import LiveEvents


class Item(msgspec.Struct):
    text: str


def publish(events: LiveEvents, *texts: str) -> None:
    for text in texts:
        events.publish("item", text, Item)


def number_of(frame: bytes) -> int:
    found = re.match(rb"id: (\d+)\n", frame)
    assert found, frame
    return int(found[1])


def texts_of(frames: bytes | None) -> list[str]:
    return re.findall(r'data: {"text":"(\w+)"}', (frames or b"").decode())


async def test_stream_begins_with_a_reset_and_has_later_events() -> None:
    events = LiveEvents()
    publish(events, "before")
    async with aclosing(events.follow(None, 60)) as stream:
        reset = await anext(stream)
        publish(events, "one", "two")
        frames = await anext(stream)
    number = number_of(reset)
    assert reset == b"id: %d\nevent: reset\ndata: {}\n\n" % number
    expected = b'id: %d\nevent: item\ndata: {"text":"one"}\n\nid: %d\nevent: item\ndata: {"text":"two"}\n\n'
    assert frames == expected % (number + 1, number + 2)


async def test_viewer_continues_after_its_last_event() -> None:
    events = LiveEvents()
    async with aclosing(events.follow(None, 60)) as other:
        first = number_of(await anext(other))
        publish(events, "one", "two", "three")
        async with aclosing(events.follow(first + 1, 60)) as stream:
            assert texts_of(await anext(stream)) == ["two", "three"]
        async with aclosing(events.follow(first + 3, 0.01)) as stream:
            assert await anext(stream) == b":\n\n"


async def test_viewer_that_missed_nothing_continues_without_a_reset() -> None:
    events = LiveEvents()
    async with aclosing(events.follow(None, 60)) as stream:
        number = number_of(await anext(stream))
    async with aclosing(events.follow(number, 60)) as stream:
        waiting = asyncio.create_task(anext(stream, None))
        await asyncio.sleep(0)
        publish(events, "x")
        assert texts_of(await waiting) == ["x"]


@pytest.mark.parametrize("after", [0, 1, 10**19])
async def test_number_of_another_server_gets_a_reset(after: int) -> None:
    events = LiveEvents()
    async with aclosing(events.follow(after, 60)) as stream:
        assert b"event: reset\n" in await anext(stream)


async def test_last_event_of_another_gateway_gets_a_reset() -> None:
    one, other = LiveEvents(), LiveEvents()
    async with aclosing(one.follow(None, 60)) as stream, aclosing(other.follow(None, 60)) as viewer:
        for events, opened in ((one, stream), (other, viewer)):
            await anext(opened)
            publish(events, *map(str, range(100)))
        number = number_of(await anext(stream))
        async with aclosing(other.follow(number, 60)) as continued:
            assert b"event: reset\n" in await anext(continued)


async def test_viewers_get_a_reset_after_an_interruption_of_the_cluster() -> None:
    events = LiveEvents()
    async with aclosing(events.follow(None, 60)) as stream:
        await anext(stream)
        publish(events, "seen")
        await anext(stream)
        publish(events, "lost")
        events.reset()
        assert b"event: reset\n" in await anext(stream)


async def test_data_of_events_is_made_for_viewers_only() -> None:
    events, made = LiveEvents(), list[str]()

    def view(text: str) -> Item:
        made.append(text)
        return Item(text)

    events.publish("item", "unseen", view)
    async with aclosing(events.follow(None, 60)) as stream:
        await anext(stream)
        events.publish("item", "seen", view)
    events.publish("item", "unseen", view)
    assert made == ["seen"]


@pytest.mark.parametrize(("limit", "value"), [("_MAX_EVENTS", 3), ("_MAX_BYTES", 160)])
async def test_slow_viewer_gets_a_reset_instead_of_dropped_events(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(live, limit, value)
    events = LiveEvents()
    async with aclosing(events.follow(None, 60)) as stream:
        number = number_of(await anext(stream))
        publish(events, *"abc")
        assert texts_of(await anext(stream)) == [*"abc"]
        publish(events, *"defg")
        reset = await anext(stream)
        assert (b"event: reset\n" in reset, number_of(reset)) == (True, number + 7)
        publish(events, "h")
        assert texts_of(await anext(stream)) == ["h"]


async def test_event_beyond_the_buffer_becomes_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_MAX_BYTES", 150)
    events = LiveEvents()
    async with aclosing(events.follow(None, 60)) as stream:
        await anext(stream)
        publish(events, "x" * 200)
        assert b"event: reset\n" in await anext(stream)


async def test_close_ends_all_streams() -> None:
    events = LiveEvents()
    async with aclosing(events.follow(None, 60)) as stream:
        await anext(stream)
        waiting = asyncio.create_task(anext(stream, None))
        await asyncio.sleep(0)
        events.close()
        assert await waiting is None
    assert [frame async for frame in events.follow(None, 60)] == []
