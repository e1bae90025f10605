// Anthropic's library for JavaScript with an agent behind it: node anthropic_messages.mjs [MODEL]
// Start `clinvk serve` first; npm install @anthropic-ai/sdk. CLINVK_URL and CLINVK_KEY say where the server is and what
// key it asks for, where they are not the usual.
import Anthropic from '@anthropic-ai/sdk';

const url = process.env.CLINVK_URL ?? 'http://localhost:8080';
const model = process.argv[2] ?? 'claude';
const client = new Anthropic({baseURL: `${url}/anthropic`, apiKey: process.env.CLINVK_KEY ?? 'not-needed'});

const stream = client.messages.stream({
  model,
  max_tokens: 4096,
  messages: [{role: 'user', content: 'What does this project do?'}],
});
stream.on('text', (piece) => process.stdout.write(piece));
const {usage} = await stream.finalMessage();
console.log(`\n(${usage.input_tokens} tokens read, ${usage.output_tokens} written)`);
