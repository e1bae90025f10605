// clinvk's own API from JavaScript, without any package: node prompt.mjs [BACKEND]
// Start `clinvk serve` first. CLINVK_URL and CLINVK_KEY say where the server is and what key it asks for, where they are
// not the usual.
const url = process.env.CLINVK_URL ?? 'http://localhost:8080';
const backend = process.argv[2] ?? 'claude';
const headers = {'Content-Type': 'application/json', Authorization: `Bearer ${process.env.CLINVK_KEY ?? 'not-needed'}`};

async function ask(body) {
  const response = await fetch(`${url}/api/v1/prompt`, {method: 'POST', headers, body: JSON.stringify({backend, ...body})});
  const data = await response.json();
  if (!response.ok) throw new Error(data.detail);
  if (data.exit_code) throw new Error(data.error);
  return data;
}

const first = await ask({prompt: 'What does this project do?', sandbox_mode: 'read-only'});
console.log(first.output);

const second = await ask({prompt: 'What should it do next?', session_id: first.session_id});
console.log(second.output);
