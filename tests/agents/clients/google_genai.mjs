// Google's SDK as a client with tools: `node google_genai.mjs BASE MODEL` prints each loop's answer as JSON.
import {GoogleGenAI} from '@google/genai';
import {z} from 'zod';
import {functions, isWanted, PARALLEL, PROMPT} from './functions.mjs';

const [base, model] = process.argv.slice(2);
const google = new GoogleGenAI({apiKey: 'not-needed', httpOptions: {baseUrl: `${base}/gemini`}});
const functionDeclarations = Object.entries(functions).map(([name, {description, schema}]) => (
  {name, description, parametersJsonSchema: z.toJSONSchema(schema)}
));
const config = {tools: [{functionDeclarations}]};
const outputs = (calls) => calls.map(({id, name, args}) => (
  {functionResponse: {id, name, response: {output: functions[name].run(args)}}}
));

async function looped(prompt) {
  const chat = google.chats.create({model, config});
  let answer = await chat.sendMessage({message: prompt});
  while (answer.functionCalls) answer = await chat.sendMessage({message: outputs(answer.functionCalls)});
  return answer.text;
}

async function streamed(prompt) {
  const chat = google.chats.create({model, config});
  let text = '';
  for (let message = prompt; message; ) {
    const calls = [];
    for await (const piece of await chat.sendMessageStream({message})) {
      text += piece.text ?? '';
      calls.push(...(piece.functionCalls ?? []));
    }
    message = calls.length ? outputs(calls) : null;
  }
  return text;
}

const loops = {
  'chat looped': () => looped(PROMPT),
  'chat streamed': () => streamed(PROMPT),
  'chat parallel': () => looped(PARALLEL),
};
const answers = {};
for (const [loop, run] of Object.entries(loops)) if (isWanted(loop)) answers[loop] = await run();
console.log(JSON.stringify(answers));
