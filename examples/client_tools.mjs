// A function of this program as a tool of the model: node client_tools.mjs [MODEL]
// Start `clinvk serve` first; npm install openai. CLINVK_URL and CLINVK_KEY set the server and the API key.
import {statfs} from 'node:fs/promises';
import OpenAI from 'openai';

async function freeSpace({path}) {
  const {bavail, bsize} = await statfs(path);
  return `${Math.round((bavail * bsize) / 1e9)} GB`;
}

const url = process.env.CLINVK_URL ?? 'http://localhost:8080';
const client = new OpenAI({baseURL: `${url}/openai/v1`, apiKey: process.env.CLINVK_KEY ?? 'not-needed'});
const runner = client.chat.completions.runTools({
  model: process.argv[2] ?? 'claude',
  messages: [{role: 'user', content: 'Is there room for a film of 8 GB in /tmp?'}],
  tools: [
    {
      type: 'function',
      function: {
        name: 'free_space',
        description: 'Return the free space of the disk with a directory, in GB.',
        parameters: {type: 'object', properties: {path: {type: 'string'}}, required: ['path']},
        parse: JSON.parse,
        function: freeSpace,
      },
    },
  ],
});
runner.on('functionToolCall', (call) => console.log(`${call.name} ${call.arguments}`));
console.log(await runner.finalContent());
