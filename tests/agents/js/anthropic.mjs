// Anthropic's SDK for JavaScript, told `node anthropic.mjs BASE MODEL`; prints what it saw as JSON.
import Anthropic from '@anthropic-ai/sdk';

const [base, model] = process.argv.slice(2);
const client = new Anthropic({baseURL: `${base}/anthropic`, apiKey: 'not-needed', maxRetries: 0});
const prompt = '[[words=3 usage=100,20,30,10]]';
const ask = (content, more = {}) => ({model, max_tokens: 4096, messages: [{role: 'user', content}], ...more});

async function whole() {
  const {content, stop_reason, usage} = await client.messages.create(ask(prompt));
  return {content, stop_reason, usage};
}

async function helped() {
  const pieces = [];
  const stream = client.messages.stream(ask(prompt)).on('text', (text) => pieces.push(text));
  const message = await stream.finalMessage();
  return {pieces, text: await stream.finalText(), tokens: message.usage.output_tokens};
}

async function streamed() {
  const kinds = [];
  for await (const event of await client.messages.create(ask(prompt, {stream: true}))) kinds.push(event.type);
  return kinds;
}

async function refused(status) {
  try {
    return await client.messages.create(ask(`[[error=${status}]]`));
  } catch (error) {
    const told = error.error?.error;
    return {name: error.constructor.name, status: error.status, type: told?.type, named: Boolean(error.requestID)};
  }
}

async function listed() {
  const ids = [];
  for await (const known of client.models.list({limit: 2})) ids.push(known.id);
  return ids;
}

async function counted() {
  return (await client.messages.countTokens({model, messages: [{role: 'user', content: 'x'.repeat(400)}]})).input_tokens;
}

const [message, helper, kinds, models, count, ...errors] = await Promise.all([
  whole(), helped(), streamed(), listed(), counted(), refused(401), refused(429),
]);
console.log(JSON.stringify({message, helper, kinds, models, count, errors}));
