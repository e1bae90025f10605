// Vercel's AI SDK as a client with tools: `node vercel.mjs BASE MODEL` prints the answer of each loop as JSON.
import {createAnthropic} from '@ai-sdk/anthropic';
import {createOpenAI} from '@ai-sdk/openai';
import {createOpenAICompatible} from '@ai-sdk/openai-compatible';
import {generateText, isStepCount, streamText, tool} from 'ai';
import {z} from 'zod';

globalThis.AI_SDK_LOG_WARNINGS = false;
const [base, name] = process.argv.slice(2);
const prompt = '[[call get_weather {"city": "Rome"}]]';
const tools = {
  get_weather: tool({
    description: 'Return the weather of a city.',
    inputSchema: z.object({city: z.string()}),
    execute: async ({city}) => `42 degrees in ${city}`,
  }),
};
const openai = createOpenAI({baseURL: `${base}/openai/v1`, apiKey: 'not-needed'});
const models = {
  chat: openai.chat(name),
  compatible: createOpenAICompatible({name: 'clinvk', baseURL: `${base}/openai/v1`, includeUsage: true})(name),
  responses: openai.responses(name),
  messages: createAnthropic({baseURL: `${base}/anthropic/v1`, apiKey: 'not-needed'})(name),
};
const loops = {
  looped: async (model) => (await generateText({model, tools, prompt, stopWhen: isStepCount(5)})).text,
  streamed: async (model) => await streamText({model, tools, prompt, stopWhen: isStepCount(5)}).text,
};

const answers = {};
for (const [api, model] of Object.entries(models))
  for (const [loop, run] of Object.entries(loops)) answers[`${api} ${loop}`] = await run(model);
console.log(JSON.stringify(answers));
