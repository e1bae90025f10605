// The SDKs of OpenAI and Anthropic as clients with tools: `node sdks.mjs BASE MODEL` prints each loop's answer as JSON.
import Anthropic from '@anthropic-ai/sdk';
import {betaZodTool} from '@anthropic-ai/sdk/helpers/beta/zod';
import OpenAI from 'openai';
import {z} from 'zod';
import {functions, isWanted, PARALLEL, PROMPT} from './functions.mjs';

const [base, model] = process.argv.slice(2);
const openai = new OpenAI({baseURL: `${base}/openai/v1`, apiKey: 'not-needed'});
const anthropic = new Anthropic({baseURL: `${base}/anthropic`, apiKey: 'not-needed'});
const named = Object.entries(functions);
const asText = (result) => (typeof result === 'string' ? result : JSON.stringify(result) ?? '');
const messages = (content) => [{role: 'user', content}];
const text = ({content}) => content.map((block) => block.text ?? '').join('');

async function chat(prompt, stream = false) {
  const tools = named.map(([name, {description, schema, run}]) => (
    {type: 'function', function: {name, description, parameters: z.toJSONSchema(schema), parse: JSON.parse, function: run}}
  ));
  return await openai.chat.completions.runTools({model, messages: messages(prompt), tools, stream}).finalContent();
}

async function responses(prompt) {
  const tools = named.map(([name, {description, schema}]) => (
    {type: 'function', name, description, parameters: z.toJSONSchema(schema), strict: false}
  ));
  let response = await openai.responses.create({model, input: prompt, tools});
  for (let calls; (calls = response.output.filter((item) => item.type === 'function_call')).length; ) {
    const input = calls.map(({call_id, name, arguments: given}) => (
      {type: 'function_call_output', call_id, output: asText(functions[name].run(JSON.parse(given)))}
    ));
    response = await openai.responses.create({model, input, tools, previous_response_id: response.id});
  }
  const {data} = await openai.responses.inputItems.list(response.id);
  if (data[0].type !== 'function_call_output') throw new Error(JSON.stringify(data));
  const {input_tokens} = await openai.responses.inputTokens.count({model, input: prompt});
  if (input_tokens < 5) throw new Error(`${input_tokens} tokens`);
  return await replayed(response.id);
}

async function replayed(id) {
  let answer = '';
  for await (const event of await openai.responses.retrieve(id, {stream: true, starting_after: 1})) {
    if (event.type === 'response.created') throw new Error('starting_after had no effect');
    if (event.type === 'response.output_text.delta') answer += event.delta;
  }
  return answer;
}

// The tool runner takes texts and content blocks as results.
const runnable = named.map(([name, {description, schema, run}]) => (
  betaZodTool({name, description, inputSchema: schema, run: (given) => asText(run(given))})
));

async function streamed(prompt) {
  let last;
  for await (const stream of anthropic.beta.messages.toolRunner(
    {model, max_tokens: 1024, messages: messages(prompt), tools: runnable, stream: true})) last = await stream.finalMessage();
  return text(last);
}

async function looped(prompt) {
  return text(await anthropic.beta.messages.toolRunner(
    {model, max_tokens: 1024, messages: messages(prompt), tools: runnable}));
}

const loops = {
  'chat looped': () => chat(PROMPT),
  'chat streamed': () => chat(PROMPT, true),
  'chat parallel': () => chat(PARALLEL),
  'responses looped': () => responses(PROMPT),
  'responses parallel': () => responses(PARALLEL),
  'messages looped': () => looped(PROMPT),
  'messages streamed': () => streamed(PROMPT),
  'messages parallel': () => looped(PARALLEL),
};
const answers = {};
for (const [loop, run] of Object.entries(loops)) if (isWanted(loop)) answers[loop] = await run();
console.log(JSON.stringify(answers));
