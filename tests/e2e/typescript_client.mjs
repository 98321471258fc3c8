// A client of the TypeScript SDK: talks to workers in turn, and prints what it heard as JSON.
// Arguments: its headers as JSON, a folder for the tool that works, and the ports of the workers.
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceListChangedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";

const [headers, folder, ...ports] = process.argv.slice(2);
const exchanges = [];
let turn = 0;

async function inTurn(input, init = {}) {
  const url = new URL(input);
  url.port = ports[turn++ % ports.length];
  const response = await fetch(url, init);
  exchanges.push([init.method ?? "GET", Number(url.port), response.status]);
  return response;
}

async function until(condition) {
  const deadline = Date.now() + 20_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`still waiting for ${condition}`);
    await pause(10);
  }
}

const client = new Client(
  { name: "typescript", version: "1" },
  { capabilities: { elicitation: {}, sampling: {}, roots: { listChanged: true } } },
);
const changes = [];
const logged = [];
client.setRequestHandler(ElicitRequestSchema, () => ({ action: "accept", content: { sure: true } }));
client.setRequestHandler(ListRootsRequestSchema, () => ({ roots: [{ uri: "file:///home" }] }));
client.setRequestHandler(CreateMessageRequestSchema, () => ({
  model: "m",
  role: "assistant",
  content: { type: "text", text: "hi" },
}));
client.setNotificationHandler(ResourceListChangedNotificationSchema, (said) => void changes.push(said.method));
client.setNotificationHandler(LoggingMessageNotificationSchema, (said) => void logged.push(said.params.level));

const transport = new StreamableHTTPClientTransport(new URL(`http://127.0.0.1:${ports[0]}/mcp`), {
  fetch: inTurn,
  requestInit: { headers: JSON.parse(headers) },
});
await client.connect(transport);
await until(() => exchanges.some(([method, , status]) => method === "GET" && status === 200));

async function call(name, args = {}, options = {}) {
  const result = await client.callTool({ name, arguments: args }, undefined, options);
  return result.content[0].text;
}

const progress = [];
const counted = await call("count", { to: 3 }, { onprogress: (step) => progress.push(step.progress) });
const confirmed = [];
const consulted = [];
for (const question of ["Sure?", "Really?", "Quite?"]) {
  confirmed.push(await call("confirm", { question }));
  consulted.push(await call("consult"));
}
await client.sendRootsListChanged();

for (let heard = 1; heard <= 4; heard++) {
  await call("announce");
  await until(() => changes.length >= heard);
}

const hasLevels = client.getServerCapabilities().logging !== undefined;
if (hasLevels) await client.setLoggingLevel("warning");
for (const level of ["info", "error", "info", "error"]) await call("log", { level, text: "said" });

const leaving = new AbortController();
const working = call("work", { folder }, { signal: leaving.signal }).catch((error) => `${error}`);
await until(() => existsSync(join(folder, "begun")));
leaving.abort("enough");
const left = await working;
await until(() => existsSync(join(folder, "stopped")));

await transport.terminateSession();
await client.close();
console.log(JSON.stringify({ counted, progress, confirmed, consulted, changes, hasLevels, logged, left, exchanges }));
