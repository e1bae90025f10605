// The SDKs of OpenAI and Anthropic as clients with tools: `node sdks.mjs BASE MODEL` prints each loop's answer as JSON.
import Anthropic from '@anthropic-ai/sdk';
import {betaZodTool} from '@anthropic-ai/sdk/helpers/beta/zod';
import OpenAI from 'openai';
import {z} from 'zod';

const [base, model] = process.argv.slice(2);
const openai = new OpenAI({baseURL: `${base}/openai/v1`, apiKey: 'not-needed'});
const anthropic = new Anthropic({baseURL: `${base}/anthropic`, apiKey: 'not-needed'});
const prompt = '[[call get_weather {"city": "Rome"}]]';
const weather = ({city}) => `42 degrees in ${city}`;
const description = 'Return the weather of a city.';
const parameters = {type: 'object', properties: {city: {type: 'string'}}, required: ['city']};
const messages = [{role: 'user', content: prompt}];
const functions = [
  {type: 'function', function: {name: 'get_weather', description, parameters, parse: JSON.parse, function: weather}},
];
const runnable = betaZodTool({name: 'get_weather', description, inputSchema: z.object({city: z.string()}), run: weather});
const text = ({content}) => content.map((block) => block.text ?? '').join('');

async function responses() {
  const tools = [{type: 'function', name: 'get_weather', description, parameters, strict: false}];
  let response = await openai.responses.create({model, input: prompt, tools});
  for (let calls; (calls = response.output.filter((item) => item.type === 'function_call')).length; ) {
    const input = calls.map(({call_id, arguments: given}) => (
      {type: 'function_call_output', call_id, output: weather(JSON.parse(given))}
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

async function messagesStreamed() {
  let last;
  for await (const stream of anthropic.beta.messages.toolRunner(
    {model, max_tokens: 1024, messages, tools: [runnable], stream: true})) last = await stream.finalMessage();
  return text(last);
}

console.log(JSON.stringify({
  'chat looped': await openai.chat.completions.runTools({model, messages, tools: functions}).finalContent(),
  'chat streamed': await openai.chat.completions.runTools({model, messages, tools: functions, stream: true}).finalContent(),
  'responses looped': await responses(),
  'messages looped': text(await anthropic.beta.messages.toolRunner({model, max_tokens: 1024, messages, tools: [runnable]})),
  'messages streamed': await messagesStreamed(),
}));
