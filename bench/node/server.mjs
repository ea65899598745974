// Node's socket.io 4.8: `node server.mjs [redis url]`. Commands as the Python contestants take them.
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const http = createServer();
const io = new Server(http, { perMessageDeflate: false });
if (process.argv[2]) {
  const pub = createClient({ url: process.argv[2] });
  const sub = pub.duplicate();
  await Promise.all([pub.connect(), sub.connect()]);
  io.adapter(createAdapter(pub, sub));
}
io.on("connection", (socket) => {
  socket.join(socket.handshake.query.user);
  socket.on("message", (data, ack) => {
    socket.emit("message_received", data);
    ack?.(data);
  });
});
const chunk = (generation, index, text) => ({
  type: "twin_message_chunk",
  payload: { text, generation_id: generation, chunk_index: index, is_last_chunk: false },
  metadata: {
    timestamp: "2026-06-12T14:22:31.123Z",
    message_id: "0123456789abcdef0123456789abcdef",
    session_id: "session-0123456789",
    in_response_to: "fedcba9876543210fedcba9876543210",
    conversation_id: "main",
  },
});
const say = (value) => process.stdout.write(JSON.stringify(value) + "\n");
const report = () => {
  const { user, system } = process.cpuUsage();
  const rss = Number(readFileSync("/proc/self/statm", "utf8").split(" ")[1]) * 4;
  say({ cpu_us: user + system, rss_kib: rss, sockets: io.engine.clientsCount });
};
http.listen(0, "127.0.0.1", 4096, () => say({ port: http.address().port }));
const send = (user, index, text) => io.to(user).emit("twin_message_chunk", chunk(user, index, text));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const now = () => Number(process.hrtime.bigint()) / 1e9;
const emit = async ({ users, rounds }) => {
  for (let index = 0; index < rounds; index += 1) {
    for (const user of users) send(user, index, " and so the story goes on");
    await new Promise(setImmediate);
  }
};
const stream = async ({ users, tokens, rate }) => {
  const began = now();
  const one = async (user, offset) => {
    for (let index = 0; index < tokens; index += 1) {
      const wait = began + offset + index / rate - now();
      await pause(Math.max(0, wait * 1000));
      send(user, index, now().toFixed(6));
    }
  };
  await Promise.all(users.map((user, n) => one(user, n / rate / users.length)));
};
for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command.do === "emit") await emit(command);
  if (command.do === "stream") await stream(command);
  report();
}
process.exit(0);
