// The functions that the clients offer, and the prompts with which the stand-in model calls them.
import {z} from 'zod';

export const PROMPT = '[[call get_weather {"city": "Rome"}]]';
export const PARALLEL =
  '[[together=3]] [[call add {"a": 20, "b": 22}]] [[call cities {"country": "Italy"}]] [[call note {"text": "x"}]]';

// Whether the command line asks for a loop: for each one, or for those with the third argument in the name.
export const isWanted = (loop) => loop.includes(process.argv[4] ?? '');

export const functions = {
  get_weather: {
    description: 'Return the weather of a city.',
    schema: z.object({city: z.string()}),
    run: ({city}) => `42 degrees in ${city}`,
  },
  add: {
    description: 'Return the sum of two numbers.',
    schema: z.object({a: z.number(), b: z.number()}),
    run: ({a, b}) => a + b,
  },
  cities: {
    description: 'Return the cities of a country.',
    schema: z.object({country: z.string()}),
    run: () => ['Rome', 'Milan'],
  },
  note: {description: 'Write a note.', schema: z.object({text: z.string()}), run: () => undefined},
};
