"""The functions that the frameworks offer, and the prompts with which the stand-in model calls them."""

import sys

PROMPT = '[[call get_weather {"city": "Rome"}]]'
PARALLEL = (
    '[[together=3]] [[call add {"a": 20, "b": 22}]] [[call cities {"country": "Italy"}]] [[call note {"text": "x"}]]'
)
"""All three in one answer."""


def is_wanted(loop: str) -> bool:
    """Return whether the command line asks for a loop: for each, or for those with the third argument in the name."""
    return all(word in loop for word in sys.argv[3:])


def get_weather(city: str) -> str:
    """Return the weather of a city.

    Args:
        city: The name of the city.
    """
    return f"42 degrees in {city}"


def add(a: int, b: int) -> int:
    """Return the sum of two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


def cities(country: str) -> list[str]:
    """Return the cities of a country.

    Args:
        country: The name of the country.
    """
    return ["Rome", "Milan"]


def note(text: str) -> None:
    """Write a note.

    Args:
        text: The text of the note.
    """


SEVERAL = (add, cities, note)
"""Functions that return a number, a list and nothing."""
