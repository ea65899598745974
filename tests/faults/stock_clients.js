// Stock socket.io clients that keep the resume contract and nothing more: argv is the path of socket.io.min.js and the
// server's URL. Commands come as JSON lines on standard input, everything that happens goes out the same way.
//   {"open": id, "auth": {...}}   {"emit": id, "name": ..., "envelope": {...}}   {"close": id}   {"drop": id}
"use strict";
const { io } = require(process.argv[2]);
const url = process.argv[3];
const durable = new Set(["user_message", "twin_message", "feedback", "read_receipt", "profile_update"]);
const clients = new Map();
const say = (id, kind, data) => process.stdout.write(JSON.stringify([id, kind, data]) + "\n");

function open(id, auth) {
  let last = auth.last_seq ?? null;
  const socket = io(url, {
    transports: ["websocket"],
    forceNew: true,
    auth: (give) => give(last === null ? auth : { ...auth, last_seq: last }),
  });
  clients.set(id, socket);
  const resume = () =>
    socket.emit("resume", { type: "resume", payload: { last_seq: last ?? 0 }, metadata: { message_id: `r-${id}-${Date.now()}` } });
  socket.onAny((name, envelope) => {
    const seq = envelope.metadata?.seq;
    if (name === "session_ready" && last === null) last = envelope.payload.seq;
    if (name === "resync") resume();
    if (seq !== undefined && (durable.has(name) || name === "message_received")) {
      if (seq === last + 1) last = seq;
      else if (seq > last + 1) resume();
    }
    say(id, "in", envelope);
  });
  socket.on("connect", () => say(id, "connect", socket.id));
  socket.on("disconnect", (reason) => say(id, "disconnect", reason));
  socket.on("connect_error", (error) => say(id, "refused", error.data ?? error.message));
}

function obey(command) {
  if ("open" in command) return open(command.open, command.auth);
  const id = command.emit ?? command.close ?? command.drop;
  const socket = clients.get(id);
  if ("emit" in command) return socket.emit(command.name, command.envelope);
  if ("close" in command) return socket.close();
  return socket.io.engine.close(); // as a network that goes away: it reconnects by itself
}

require("node:readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => obey(JSON.parse(line)))
  .on("close", () => process.exit(0));
