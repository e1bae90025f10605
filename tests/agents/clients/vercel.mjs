// Vercel's AI SDK as a client with tools: `node vercel.mjs BASE MODEL` prints the answer of each loop as JSON.
import {createAnthropic} from '@ai-sdk/anthropic';
import {createOpenAI} from '@ai-sdk/openai';
import {createOpenAICompatible} from '@ai-sdk/openai-compatible';
import {generateText, isStepCount, streamText, tool} from 'ai';
import {functions, isWanted, PARALLEL, PROMPT} from './functions.mjs';

globalThis.AI_SDK_LOG_WARNINGS = false;
const [base, name] = process.argv.slice(2);
const tools = Object.fromEntries(
  Object.entries(functions).map(([name, {description, schema, run}]) => (
    [name, tool({description, inputSchema: schema, execute: async (given) => run(given)})]
  )),
);
const openai = createOpenAI({baseURL: `${base}/openai/v1`, apiKey: 'not-needed'});
const models = {
  chat: openai.chat(name),
  compatible: createOpenAICompatible({name: 'clinvk', baseURL: `${base}/openai/v1`, includeUsage: true})(name),
  responses: openai.responses(name),
  messages: createAnthropic({baseURL: `${base}/anthropic/v1`, apiKey: 'not-needed'})(name),
};
const stopWhen = isStepCount(5);
const loops = {
  looped: async (model) => (await generateText({model, tools, prompt: PROMPT, stopWhen})).text,
  streamed: async (model) => await streamText({model, tools, prompt: PROMPT, stopWhen}).text,
  parallel: async (model) => (await generateText({model, tools, prompt: PARALLEL, stopWhen})).text,
};

const answers = {};
for (const [api, model] of Object.entries(models))
  for (const [loop, run] of Object.entries(loops))
    if (isWanted(`${api} ${loop}`)) answers[`${api} ${loop}`] = await run(model);
console.log(JSON.stringify(answers));
