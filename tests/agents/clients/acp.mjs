// The TypeScript SDK of the Agent Client Protocol as an editor: `node acp.mjs CLINVK DIRECTORY PROMPTS [URL]`.
//
// The editor starts `clinvk acp`, with an http URL as a bridge to that server, or connects to a ws URL itself.
// PROMPTS has three prompts by agent, as JSON: the second one asks for a permission, which is denied, the third one for
// a permission that is allowed. Prints what each agent's session has shown, as JSON by agent.
import {spawn} from 'node:child_process';
import {Readable, Writable} from 'node:stream';
import {PROTOCOL_VERSION, client, methods, ndJsonStream} from '@agentclientprotocol/sdk';
import {createWebSocketStream} from '@agentclientprotocol/sdk/experimental/ws-client';
import {WebSocket} from 'ws';

const [clinvk, cwd, prompts, url] = process.argv.slice(2);
const agents = Object.entries(JSON.parse(prompts));
const asked = {};
const updates = {};
let choice = 'deny';

const bridge = url ? ['--server', url] : [];
const started = url?.startsWith('ws:') ? null
  : spawn(clinvk, ['acp', ...bridge], {cwd, stdio: ['pipe', 'pipe', 'inherit']});
const stream = started ? ndJsonStream(Writable.toWeb(started.stdin), Readable.toWeb(started.stdout))
  : createWebSocketStream(url, {WebSocket});
const editor = client({name: 'editor'})
  .onRequest(methods.client.session.requestPermission, ({params: {sessionId, options}}) => {
    asked[sessionId] = [...(asked[sessionId] ?? []), options.map(({kind}) => kind)];
    return {outcome: {outcome: 'selected', optionId: choice}};
  })
  .onNotification(methods.client.session.update, ({params: {sessionId, update}}) => {
    updates[sessionId] = [...(updates[sessionId] ?? []), update];
  });
const text = (id, kind) => (updates[id] ?? [])
  .filter(({sessionUpdate}) => sessionUpdate === kind).map(({content}) => content.text).join('');
const value = (options, option) => options.find(({id}) => id === option).currentValue;

const found = await editor.connectWith(
  stream,
  async (agent) => {
    const request = (method, params) => agent.request(method, params);
    const {agentCapabilities, authMethods} = await request(methods.agent.initialize, {
      protocolVersion: PROTOCOL_VERSION, clientCapabilities: {},
    });
    const sessions = {};
    for (const [name] of agents) {
      const {sessionId, modes} = await request(methods.agent.session.new, {cwd, mcpServers: []});
      const {configOptions} = await request(
        methods.agent.session.setConfigOption, {sessionId, configId: 'backend', value: name});
      const mode = value(configOptions, 'approval_mode');
      sessions[name] = {sessionId, mode, modes: modes.availableModes.map(({id}) => id), stops: []};
    }
    for (const turn of [0, 1, 2]) {
      choice = turn === 2 ? 'allow' : 'deny';
      await Promise.all(agents.map(async ([name, texts]) => {
        const {sessionId, stops} = sessions[name];
        const prompt = [{type: 'text', text: texts[turn]}];
        stops.push((await request(methods.agent.session.prompt, {sessionId, prompt})).stopReason);
      }));
    }
    const listed = (await request(methods.agent.session.list, {cwd})).sessions.map(({sessionId}) => sessionId);
    const elsewhere = (await request(methods.agent.session.list, {cwd: '/'})).sessions;
    for (const session of Object.values(sessions)) {
      const {sessionId} = session;
      Object.assign(session, {asked: asked[sessionId], answer: text(sessionId, 'agent_message_chunk')});
      session.isListed = listed.includes(sessionId);
      await request(methods.agent.session.close, {sessionId});
      updates[sessionId] = [];
      await request(methods.agent.session.load, {sessionId, cwd, mcpServers: []});
      session.isReplayed = text(sessionId, 'agent_message_chunk') === session.answer;
      session.prompts = text(sessionId, 'user_message_chunk');
      await request(methods.agent.session.setMode, {sessionId, modeId: 'none'});
      const {configOptions} = await request(methods.agent.session.resume, {sessionId, cwd});
      session.changed = value(configOptions, 'approval_mode');
    }
    return {agentCapabilities, authMethods, elsewhere, sessions};
  },
);
console.log(JSON.stringify(found));
started?.stdin.end();
process.exit(started ? await new Promise((resolve) => started.on('exit', resolve)) : 0);
