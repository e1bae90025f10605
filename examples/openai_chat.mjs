// OpenAI's library for JavaScript with an agent behind it: node openai_chat.mjs [MODEL]
// Start `clinvk serve` first; npm install openai. CLINVK_URL and CLINVK_KEY say where the server is and what key it asks
// for, where they are not the usual.
import OpenAI from 'openai';

const url = process.env.CLINVK_URL ?? 'http://localhost:8080';
const model = process.argv[2] ?? 'claude';
const client = new OpenAI({baseURL: `${url}/openai/v1`, apiKey: process.env.CLINVK_KEY ?? 'not-needed'});

const stream = client.chat.completions.stream({
  model,
  messages: [{role: 'user', content: 'What does this project do?'}],
  stream_options: {include_usage: true},
});
stream.on('content', (piece) => process.stdout.write(piece));
const usage = await stream.totalUsage();
console.log(`\n(${usage.prompt_tokens} tokens read, ${usage.completion_tokens} written)`);
