// The MCP SDK for JavaScript as a client: `node mcp_sdk.mjs URL COMMAND` prints a report of each transport as JSON.
import {Client} from '@modelcontextprotocol/sdk/client/index.js';
import {StdioClientTransport} from '@modelcontextprotocol/sdk/client/stdio.js';
import {StreamableHTTPClientTransport} from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const [url, command] = process.argv.slice(2);
const transports = {
  stdio: new StdioClientTransport({command, args: ['mcp'], env: process.env}),
  http: new StreamableHTTPClientTransport(new URL(`${url}/mcp`)),
};

async function report(name, transport) {
  const client = new Client({name: 'test', version: '1'});
  const setVersion = transport.setProtocolVersion?.bind(transport);
  let version;
  transport.setProtocolVersion = (negotiated) => {
    version = negotiated;
    setVersion?.(negotiated);
  };
  await client.connect(transport);
  const {tools} = await client.listTools();
  const call = async (tool, args, options) => (
    (await client.callTool({name: tool, arguments: args}, undefined, options)).structuredContent
  );
  const {output} = await call('run_agent', {prompt: `quick ${name}`, backend: 'claude'});
  const abort = new AbortController();
  let progress = '';
  const onprogress = ({message}) => {
    progress = message;
    abort.abort();
  };
  const slow = {prompt: `slow ${name}`, backend: 'claude', wait_secs: 100};
  await call('run_agent', slow, {onprogress, signal: abort.signal}).catch(() => {});
  const {resources} = await client.listResources();
  const run = resources.find(({uri, title}) => uri.startsWith('clinvk://runs/') && title === slow.prompt);
  const {state} = await call('wait_run', {run_id: run.uri.split('/').at(-1)});
  const [{uri, mimeType, text}] = (await client.readResource({uri: run.uri})).contents;
  const {resourceTemplates} = await client.listResourceTemplates();
  const unknown = await client.readResource({uri: 'clinvk://runs/abcdef'}).catch(({code}) => code);
  await client.close();
  return {
    server: client.getServerVersion().name,
    version,
    tools: tools.map(({name: tool}) => tool),
    output,
    progress,
    state,
    read: [uri === run.uri, mimeType, JSON.parse(text).prompt],
    templates: resourceTemplates.length,
    unknown,
  };
}

const reports = Object.entries(transports).map(async ([name, transport]) => [name, await report(name, transport)]);
console.log(JSON.stringify(Object.fromEntries(await Promise.all(reports))));
