export { connect, TwinClient, type Options } from "./client.js";
export { reportContext, type ContextOptions } from "./context.js";
export { bestOutbox, IndexedDbOutbox, MemoryOutbox, type Entry, type QueuedEvent, type Outbox } from "./outbox.js";
export {
  conversation,
  DEFAULT_CONVERSATION,
  type Connection,
  type Conversation,
  type Message,
  type MessageState,
  type State,
} from "./state.js";
export type * as protocol from "./protocol.js";
export type { Sent } from "./sending.js";
export { TwinError } from "./wire.js";
