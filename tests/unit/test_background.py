"""`in_background`: the work ends with the context, and an error of the work ends the context."""

import asyncio

import pytest

from clinvk.runtime.process.waiting import in_background


async def test_background_task_is_cancelled_when_the_context_exits() -> None:
    conversation: list[str] = []
    has_begun = asyncio.Event()

    async def work() -> None:
        has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            conversation.append("ended")

    async with in_background(work()):
        await has_begun.wait()
        assert not conversation
    assert conversation == ["ended"]


async def test_exception_in_the_background_task_ends_the_context() -> None:
    async def work() -> None:
        raise OSError("it broke")

    with pytest.raises(ExceptionGroup) as caught:
        async with in_background(work()):
            await asyncio.Event().wait()
    assert [str(error) for error in caught.value.exceptions] == ["it broke"]


async def test_exception_in_the_context_leaves_it_unwrapped_after_the_end_of_the_work() -> None:
    conversation: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            conversation.append("ended")

    async def fail() -> None:
        async with in_background(work()):
            await asyncio.sleep(0)
            raise OSError("the reader is gone")

    with pytest.raises(OSError, match="the reader is gone"):
        await fail()
    assert conversation == ["ended"]
