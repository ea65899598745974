export { connect, TwinClient, type Options, type SendOptions } from "./client.js";
export { reportContext, type ContextOptions } from "./context.js";
export { bestOutbox, IndexedDbOutbox, MemoryOutbox, type Entry, type QueuedEvent, type Outbox } from "./outbox.js";
export { answerTo, type Approval, type Conversation, type Decision, type Message, type MessageState, type Reasoning } from "./conversation.js";
export { conversation, DEFAULT_CONVERSATION, type Connection, type State } from "./state.js";
export type { HostToolCall, RunTool } from "./tools.js";
export type * as protocol from "./protocol.js";
export type { Sent } from "./sending.js";
export { TwinError } from "./wire.js";
