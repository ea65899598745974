// The real AG-UI client: `node client.mjs URL TOKEN TEXT [approve|reject]` says TEXT in a thread of its own, decides what
// the run waits for, and prints `{messages, runs}` as JSON: what the client has in the end, and each run's events.
import { HttpAgent } from "@ag-ui/client";

const [url, token, text, decision] = process.argv.slice(2);
const agent = new HttpAgent({ url: `${url}/ag-ui`, headers: { Authorization: `Bearer ${token}` }, threadId: "kitchen" });
const runs = [];

async function run(parameters) {
  const events = [];
  let waiting = [];
  runs.push(events);
  await agent.runAgent(parameters, {
    onEvent: ({ event }) => void events.push(event.type),
    onRunFinishedEvent: (finished) => void (waiting = finished.outcome === "interrupt" ? finished.interrupts : []),
    onRunErrorEvent: ({ event }) => void events.push(event.code),
  });
  return waiting;
}

agent.addMessage({ id: "m-1", role: "user", content: text });
try {
  const waiting = await run({});
  if (waiting.length > 0) {
    const payload = { decision };
    await run({ resume: waiting.map(({ id }) => ({ interruptId: id, status: "resolved", payload })) });
  }
} catch (error) {
  runs.push([String(error)]);
}
console.log(JSON.stringify({ messages: agent.messages, runs }));
