// OpenAI's SDK for JavaScript, told `node openai.mjs BASE MODEL`; prints what it saw as JSON.
import OpenAI from 'openai';

const [base, model] = process.argv.slice(2);
const client = new OpenAI({baseURL: `${base}/openai/v1`, apiKey: 'not-needed', maxRetries: 0});
const prompt = '[[words=3 usage=100,20,30,10]]';
const ask = (content, more = {}) => ({model, messages: [{role: 'user', content}], ...more});

async function whole() {
  const chat = await client.chat.completions.create(ask(prompt));
  return {text: chat.choices[0].message.content, reason: chat.choices[0].finish_reason, usage: chat.usage};
}

async function streamed() {
  const pieces = [];
  for await (const chunk of await client.chat.completions.create(ask(prompt, {stream: true}))) {
    if (chunk.choices[0].delta.content) pieces.push(chunk.choices[0].delta.content);
  }
  return pieces;
}

async function helped() {
  const stream = client.chat.completions.stream(ask(prompt, {stream_options: {include_usage: true}}));
  return {text: await stream.finalContent(), tokens: (await stream.totalUsage()).total_tokens};
}

async function responded() {
  const stream = client.responses.stream({model, input: prompt});
  const kinds = [];
  for await (const event of stream) kinds.push(event.type);
  const response = await stream.finalResponse();
  return {kinds, text: response.output_text, tokens: response.usage.total_tokens};
}

async function refused(status) {
  try {
    return await client.chat.completions.create(ask(`[[error=${status}]]`));
  } catch (error) {
    return {name: error.constructor.name, status: error.status, code: error.code, named: Boolean(error.requestID)};
  }
}

async function listed() {
  const ids = [];
  for await (const known of client.models.list()) ids.push(known.id);
  return ids;
}

const [chat, pieces, helper, response, models, ...errors] = await Promise.all([
  whole(), streamed(), helped(), responded(), listed(), refused(401), refused(429),
]);
console.log(JSON.stringify({chat, pieces, helper, response, models, errors}));
