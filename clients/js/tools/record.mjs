// A session of this client with everything that it sends, for `python -m tests.recorded js`, which listens in between
// and keeps the frames. Takes {url, tokens, said} as its argument; the first token ends soon, so that it is renewed.
import { build } from "esbuild";
import WebSocket from "ws";

const { url, tokens, said } = JSON.parse(process.argv[2]);
const here = (path) => new URL(`../${path}`, import.meta.url).pathname;
const outfile = here("node_modules/.cache/client.mjs");
await build({ entryPoints: [here("src/index.ts")], outfile, bundle: true, format: "esm", platform: "node", external: ["socket.io-client"] });
const { connect, MemoryOutbox } = await import(outfile);

let network; // the WebSocket under the client, to lose it
const { send } = WebSocket.prototype;
WebSocket.prototype.send = function (...sent) {
  network = this;
  return send.apply(this, sent);
};

const device = { name: "Recorder", platform: "test", app_version: "1" };
const getToken = () => (tokens.length > 1 ? tokens.shift() : tokens[0]);
const options = { url, getToken, device, sessionId: "recorder", transports: ["websocket"] };
const twin = connect({ ...options, context: { page: "start" } });
const answers = (count) => (state) => answersOf(state).length >= count;
const answersOf = (state) => (state.conversations.main?.messages ?? []).filter((one) => one.role === "twin" && one.seq !== null);

const first = twin.send(said);
await twin.until(answers(1));
await twin.until((state) => state.profileVersion === 1);
const [answer] = answersOf(twin.state);
twin.typing(true);
twin.read(answer.id);
await twin.feedback(answer.id, "up").receipt;
await twin.updateContext({ page: "next" });
await twin.regenerate(first.id).receipt;
await twin.until(answers(2));
const long = twin.send("stop this");
await twin.until((state) => state.conversations.main.messages.some((one) => one.state === "streaming"));
await twin.stop(long.id);
await twin.until(answers(3));
const [trait] = (await twin.profile()).traits;
await twin.correct(trait.trait_id, "confirm").receipt;
await twin.conversations();
await twin.search("tea");
await twin.history({ limit: 10 });
network.terminate();
await twin.until((state) => state.connection === "offline");
await twin.until((state) => state.connection === "online");
await new Promise((done) => setTimeout(done, 2500)); // heartbeats, and the token's renewal
twin.close();

// Reloaded, before the acknowledgement had come: the same message from the outbox.
const outbox = new MemoryOutbox();
await outbox.add({ id: first.id, name: "user_message", conversationId: "main", payload: { text: said }, at: 1 });
const again = connect({ ...options, outbox });
await again.until((state) => state.connection === "online" && state.unsent === 0 && state.conversations.main.hasMore !== null);
again.close();
