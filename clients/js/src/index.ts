export { connect, TwinClient, TwinError, type Options, type Sent } from "./client.js";
export { reportContext, type ContextOptions } from "./context.js";
export { bestOutbox, IndexedDbOutbox, MemoryOutbox, type Entry, type Lasting, type Outbox } from "./outbox.js";
export {
  conversation,
  NEW_CONVERSATION,
  type Connection,
  type Conversation,
  type Message,
  type MessageState,
  type State,
} from "./state.js";
export type * as protocol from "./protocol.js";
