/** Envelopes as a server says them, and the state after them. */
import type { Envelope, ServerEventName, ServerEvents } from "../src/protocol.js";
import { conversation, initial, receive, type State } from "../src/state.js";

let ids = 0;
export function event<Name extends ServerEventName>(type: Name, payload: ServerEvents[Name], metadata: object = {}): Envelope<Name> {
  return { type, payload, metadata: { timestamp: "2026-01-01T00:00:00.000Z", message_id: `e-${(ids += 1)}`, conversation_id: "main", ...metadata } };
}
export const ready = (seq: number) =>
  event("session_ready", {
    user_id: "ada",
    session_id: "s",
    expires_at: "2027-01-01T00:00:00.000Z",
    seq,
    sessions: [],
    heartbeat_interval_ms: 1000,
    limits: { text_characters: 1, envelope_bytes: 1, history_page: 1, messages_per_minute: 1, events_per_second: 1, sessions: 1 },
    profile_version: 0,
    server: { instance: "i", protocol: 1, time: "2026-01-01T00:00:00.000Z" },
  });
export const user = (text: string, seq: number, id = `u-${seq}`) => event("user_message", { text }, { seq, message_id: id });
export const answer = (text: string, seq: number, to: string, generation = "g") =>
  event("twin_message", { text, generation_id: generation, status: "complete", model: "m", used_traits: [] }, { seq, in_response_to: to, message_id: `t-${seq}` });
export const chunk = (text: string, index: number, generation = "g", to = "u-1", first?: number) =>
  event(
    "twin_message_chunk",
    { text, generation_id: generation, chunk_index: index, is_last_chunk: false, ...(first === undefined ? {} : { first_chunk_index: first }) },
    { in_response_to: to },
  );
export const after = (...envelopes: Envelope[]): [State, (string | null)[]] => {
  const wishes: (string | null)[] = [];
  const state = envelopes.reduce((at, envelope) => {
    const [next, wish] = receive(at, envelope);
    wishes.push(wish);
    return next;
  }, initial("s"));
  return [state, wishes];
};
export const shown = (state: State) => conversation(state, "main").messages.map((one) => one.text);
