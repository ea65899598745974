// Made from the service's AsyncAPI document by `npm run generate`: do not edit.

export interface Approval {
  approval_id: string;
  decision: "approve" | "reject" | "edit";
  arguments?: {
    [k: string]: unknown;
  } | null;
  comment?: string | null;
}
export interface ApprovalRequestedPayload {
  approval_id: string;
  call_id: string;
  tool: string;
  title: string;
  arguments: {
    [k: string]: unknown;
  };
  /**
   * UTC, milliseconds, `2026-06-12T14:22:31.123Z`.
   */
  expires_at: string;
}
export interface ApprovalResolvedPayload {
  approval_id: string;
  decision: "approve" | "reject" | "edit" | "expired" | "cancelled";
  /**
   * As edited.
   */
  arguments?: {
    [k: string]: unknown;
  } | null;
  comment?: string | null;
}
/**
 * The Socket.IO `auth` payload of a connect.
 */
export interface Auth {
  token?: string | null;
  session_id?: string | null;
  user_id?: string | null;
  last_seq?: number | null;
  context?: {
    [k: string]: unknown;
  } | null;
  device?: DeviceInfo;
  /**
   * What this client knows beside the first of version 1: `approvals`.
   *
   * @maxItems 16
   */
  features?: string[];
}
export interface DeviceInfo {
  name?: string | null;
  platform?: string | null;
  app_version?: string | null;
}
export interface AuthExpiringPayload {
  /**
   * UTC, milliseconds, `2026-06-12T14:22:31.123Z`.
   */
  expires_at: string;
}
export interface AuthRefresh {
  token: string;
}
export interface AuthRefreshedPayload {
  /**
   * UTC, milliseconds, `2026-06-12T14:22:31.123Z`.
   */
  expires_at: string;
}
export interface ContextUpdate {
  context: {
    [k: string]: unknown;
  };
  mode?: "merge" | "replace";
}
export interface ContextUpdatePayload {
  context: {
    [k: string]: unknown;
  };
  mode: "merge" | "replace";
}
export interface ConversationLine {
  conversation_id: string;
  title: string;
  last_message: HistoryMessage | null;
  unread: number;
}
export interface HistoryMessage {
  message_id: string;
  role: "user" | "twin";
  text: string;
  /**
   * UTC, milliseconds, `2026-06-12T14:22:31.123Z`.
   */
  timestamp: string;
  /**
   * A place in the user's log, dense from 1; 0: before the first.
   */
  seq: number;
  session_id?: string | null;
  in_response_to?: string | null;
  status?: ("complete" | "stopped" | "interrupted" | "failed") | null;
  generation_id?: string | null;
  model?: string | null;
  usage?: {
    [k: string]: unknown;
  } | null;
  used_traits?: string[] | null;
  finish?: ("length" | "content_filter") | null;
  error?: string | null;
  /**
   * What was done for it.
   */
  steps?: Step[] | null;
  /**
   * What the model thought, where that is shown.
   */
  reasoning?: string | null;
  /**
   * Messages that it took in while it was made.
   */
  steered_by?: string[] | null;
  /**
   * The message that ended it.
   */
  stopped_by?: string | null;
  feedback?: FeedbackPayload | null;
}
/**
 * Something that was done for an answer. `unknown`: whether it was done, as its server died meanwhile.
 */
export interface Step {
  step_id: string;
  kind: "tool" | "node";
  /**
   * The tool's, or the node's.
   */
  name: string;
  /**
   * For people.
   */
  title: string;
  state: "started" | "progress" | "waiting" | "done" | "failed" | "unknown";
  /**
   * For people: what came of it.
   */
  summary?: string | null;
}
export interface FeedbackPayload {
  message_id: string;
  rating: "up" | "down" | "none";
  comment?: string | null;
  tags?: string[] | null;
  correction?: string | null;
}
export interface ConversationListPayload {
  conversations: ConversationLine[];
  /**
   * True where there are more: ask again with `before` set to `next`.
   */
  has_more?: boolean | null;
  /**
   * The seq of the last line's message.
   */
  next?: number | null;
}
export interface Conversations {
  before?: number | null;
  limit?: number;
}
export interface ErrorPayload {
  code: string;
  message: string;
  retryable: boolean;
  retry_after_ms?: number | null;
  field?: string | null;
  error_id?: string | null;
}
export interface Feedback {
  message_id: string;
  rating: "up" | "down" | "none";
  comment?: string | null;
  tags?: string[] | null;
  correction?: string | null;
}
export interface FoundMessage {
  message_id: string;
  conversation_id: string;
  role: "user" | "twin";
  /**
   * Of the text what is around the first of the words.
   */
  excerpt: string;
  /**
   * UTC, milliseconds, `2026-06-12T14:22:31.123Z`.
   */
  timestamp: string;
  /**
   * A place in the user's log, dense from 1; 0: before the first.
   */
  seq: number;
}
export interface Heartbeat {}
export interface HeartbeatAckPayload {
  /**
   * UTC, milliseconds, `2026-06-12T14:22:31.123Z`.
   */
  server_time: string;
  /**
   * A place in the user's log, dense from 1; 0: before the first.
   */
  head_seq: number;
}
export interface History {
  before?: string | null;
  after?: string | null;
  limit?: number;
}
export interface HistoryPagePayload {
  messages: HistoryMessage[];
  has_more: boolean;
  conversation_id: string;
  /**
   * What answers of this conversation wait for.
   */
  approvals?: PendingApproval[] | null;
}
export interface PendingApproval {
  approval_id: string;
  call_id: string;
  tool: string;
  title: string;
  arguments: {
    [k: string]: unknown;
  };
  /**
   * UTC, milliseconds, `2026-06-12T14:22:31.123Z`.
   */
  expires_at: string;
  /**
   * The user's message whose answer waits.
   */
  in_response_to: string;
  /**
   * A place in the user's log, dense from 1; 0: before the first.
   */
  seq: number;
}
/**
 * What the app on this device can do for the twin. `parameters` is the JSON schema of its arguments.
 */
export interface HostTool {
  name: string;
  description: string;
  parameters?: {
    [k: string]: unknown;
  };
  needs_approval?: boolean;
}
/**
 * All that the session offers from now on, until its connection ends.
 */
export interface HostTools {
  /**
   * @maxItems 16
   */
  tools: HostTool[];
}
export interface MessageReceivedPayload {
  message_id: string;
  status: "accepted" | "duplicate";
  /**
   * To a feedback: the traits it changed.
   */
  traits?: TraitChanged[] | null;
  /**
   * To a context_update: until when it is kept.
   */
  expires_at?: string | null;
}
export interface TraitChanged {
  trait_id: string;
  key: string;
  value: string;
  previous?: string | null;
  confidence: number;
  status: "applied" | "tentative" | "unused" | "rejected" | "superseded";
  reason: string;
  /**
   * Who it is of; without it the user.
   */
  entity?: TraitEntity | null;
}
/**
 * A person or an animal in the user's life, as far as the user has told.
 */
export interface TraitEntity {
  kind: "person" | "pet";
  /**
   * As the user calls them: "daughter", "cat".
   */
  relation?: string | null;
  name?: string | null;
  /**
   * How many there are, where they are several.
   */
  count?: number | null;
}
/**
 * What a client may say around its payload; the server stamps its own time.
 */
export interface Metadata {
  timestamp?: string | null;
  session_id?: string | null;
  message_id?: string | null;
  conversation_id?: string;
}
export interface PresencePayload {
  session_id: string;
  state: "joined" | "left";
  /**
   * `name`, `platform`, `app_version`, as far as the device reported.
   */
  device: {
    [k: string]: string;
  };
  sessions: SessionEntry[];
}
export interface SessionEntry {
  session_id: string;
  /**
   * `name`, `platform`, `app_version`, as far as the device reported.
   */
  device: {
    [k: string]: string;
  };
}
export interface ProfileCorrect {
  trait_id: string;
  action: "confirm" | "reject" | "edit";
  value?: string | null;
}
export interface ProfileGet {}
export interface ProfilePayload {
  version: number;
  /**
   * UTC, milliseconds, `2026-06-12T14:22:31.123Z`.
   */
  as_of: string;
  traits: Trait[];
  /**
   * True where there are more than fit into a frame; the surest are shown.
   */
  has_more?: boolean | null;
}
export interface Trait {
  trait_id: string;
  key: string;
  value: string;
  status: "applied" | "tentative" | "unused" | "rejected" | "superseded";
  confidence: number;
  supporting: number;
  opposing: number;
  /**
   * UTC, milliseconds, `2026-06-12T14:22:31.123Z`.
   */
  valid_from: string;
  valid_to?: string | null;
  pinned: boolean;
  /**
   * What the user said of the time, and in which month.
   */
  when?: string | null;
  /**
   * True where the user said last that it is not so.
   */
  denied?: boolean | null;
  /**
   * Who it is of; without it the user.
   */
  entity?: TraitEntity | null;
}
export interface ProfileUpdatePayload {
  version: number;
  changes: TraitChanged[];
  /**
   * True where more has changed than fits into a frame: ask for the profile.
   */
  has_more?: boolean | null;
}
export interface ReadReceipt {
  message_id: string;
}
export interface ReadReceiptPayload {
  message_id: string;
}
/**
 * A refused handshake: the `data` of Socket.IO's `connect_error`.
 */
export interface Refusal {
  code: string;
  message: string;
  retryable: boolean;
  retry_after_ms?: number | null;
}
export interface Regenerate {
  message_id: string;
}
export interface Resume {
  last_seq: number;
}
export interface ResumedPayload {
  /**
   * A place in the user's log, dense from 1; 0: before the first.
   */
  through_seq: number;
  /**
   * False: retention has removed some of it; call `history`.
   */
  complete: boolean;
}
export interface ResyncPayload {
  reason: "gap" | "redis_restored";
}
export interface Search {
  text: string;
  limit?: number;
}
export interface SearchPayload {
  messages: FoundMessage[];
  /**
   * False: not everything could be searched in time; ask again.
   */
  complete: boolean;
}
export interface ServerDrainingPayload {
  reconnect_after_ms: number;
}
export interface ServerInfo {
  instance: string;
  protocol: number;
  /**
   * UTC, milliseconds, `2026-06-12T14:22:31.123Z`.
   */
  time: string;
}
export interface ServerMetadata {
  /**
   * UTC, milliseconds, `2026-06-12T14:22:31.123Z`.
   */
  timestamp: string;
  message_id: string;
  /**
   * The session that caused the event, where one did.
   */
  session_id?: string | null;
  /**
   * The client's message_id that is answered.
   */
  in_response_to?: string | null;
  conversation_id?: string | null;
  /**
   * On every durable event, and on its receipt.
   */
  seq?: number | null;
}
export interface SessionEndedPayload {
  reason: "replaced" | "revoked" | "erased";
  /**
   * The same, to show to people.
   */
  message: string;
}
export interface SessionLimits {
  text_characters: number;
  envelope_bytes: number;
  history_page: number;
  messages_per_minute: number;
  events_per_second: number;
  sessions: number;
}
export interface SessionReadyPayload {
  user_id: string;
  session_id: string;
  /**
   * UTC, milliseconds, `2026-06-12T14:22:31.123Z`.
   */
  expires_at: string;
  /**
   * A place in the user's log, dense from 1; 0: before the first.
   */
  seq: number;
  sessions: SessionEntry[];
  heartbeat_interval_ms: number;
  limits: SessionLimits;
  profile_version: number;
  /**
   * How often all that the user had was erased. Where that has changed, show nothing of before.
   */
  epoch?: number | null;
  server: ServerInfo;
}
export interface StopGeneration {
  message_id: string;
}
export interface ToolCallPayload {
  /**
   * Also the key by which a repeat is known.
   */
  call_id: string;
  name: string;
  arguments: {
    [k: string]: unknown;
  };
  timeout_ms: number;
}
export interface ToolResult {
  call_id: string;
  output?: {
    [k: string]: unknown;
  };
  error?: string | null;
}
export interface TwinActivityPayload {
  step_id: string;
  kind: "tool" | "node";
  /**
   * The tool's, or the node's.
   */
  name: string;
  /**
   * For people.
   */
  title: string;
  state: "started" | "progress" | "waiting" | "done" | "failed" | "unknown";
  /**
   * For people: what came of it.
   */
  summary?: string | null;
}
export interface TwinMessageChunkPayload {
  text: string;
  generation_id: string;
  chunk_index: number;
  /**
   * Set where several chunks come as one.
   */
  first_chunk_index?: number | null;
  is_last_chunk: boolean;
}
export interface TwinMessagePayload {
  text: string;
  generation_id: string;
  status: "complete" | "stopped" | "interrupted" | "failed";
  model: string;
  usage?: {
    [k: string]: unknown;
  } | null;
  used_traits: string[];
  finish?: ("length" | "content_filter") | null;
  error?: string | null;
  /**
   * What was done for it.
   */
  steps?: Step[] | null;
  /**
   * What the model thought, where that is shown.
   */
  reasoning?: string | null;
  /**
   * Messages that it took in while it was made.
   */
  steered_by?: string[] | null;
  /**
   * The message that ended it.
   */
  stopped_by?: string | null;
}
export interface TwinReasoningChunkPayload {
  text: string;
  generation_id: string;
  chunk_index: number;
}
export interface TwinThinkingPayload {
  state: "queued" | "recalling" | "thinking" | "done";
}
export interface TypingIndicator {
  is_typing: boolean;
}
export interface TypingIndicatorPayload {
  is_typing: boolean;
}
export interface UserMessage {
  text: string;
  context?: {
    [k: string]: unknown;
  } | null;
  mode?: "queue" | "interrupt" | "steer";
}
export interface UserMessagePayload {
  text: string;
}

/** What a client may send, by event name. */
export interface ClientEvents {
  user_message: UserMessage;
  context_update: ContextUpdate;
  feedback: Feedback;
  typing_indicator: TypingIndicator;
  read_receipt: ReadReceipt;
  heartbeat: Heartbeat;
  resume: Resume;
  stop_generation: StopGeneration;
  regenerate: Regenerate;
  history: History;
  conversations: Conversations;
  search: Search;
  host_tools: HostTools;
  tool_result: ToolResult;
  approval: Approval;
  auth_refresh: AuthRefresh;
  profile_get: ProfileGet;
  profile_correct: ProfileCorrect;
}

/** What the server says, by event name. */
export interface ServerEvents {
  session_ready: SessionReadyPayload;
  message_received: MessageReceivedPayload;
  user_message: UserMessagePayload;
  twin_thinking: TwinThinkingPayload;
  twin_message_chunk: TwinMessageChunkPayload;
  twin_reasoning_chunk: TwinReasoningChunkPayload;
  twin_activity: TwinActivityPayload;
  tool_call: ToolCallPayload;
  approval_requested: ApprovalRequestedPayload;
  approval_resolved: ApprovalResolvedPayload;
  twin_message: TwinMessagePayload;
  profile_update: ProfileUpdatePayload;
  profile: ProfilePayload;
  typing_indicator: TypingIndicatorPayload;
  read_receipt: ReadReceiptPayload;
  feedback: FeedbackPayload;
  context_update: ContextUpdatePayload;
  presence: PresencePayload;
  heartbeat_ack: HeartbeatAckPayload;
  resumed: ResumedPayload;
  resync: ResyncPayload;
  history: HistoryPagePayload;
  conversations: ConversationListPayload;
  search: SearchPayload;
  auth_refreshed: AuthRefreshedPayload;
  auth_expiring: AuthExpiringPayload;
  server_draining: ServerDrainingPayload;
  session_ended: SessionEndedPayload;
  error: ErrorPayload;
}

export type ServerEventName = keyof ServerEvents;

/** What every event from the server carries. */
export interface Envelope<Name extends ServerEventName = ServerEventName> {
  type: Name;
  payload: ServerEvents[Name];
  metadata: ServerMetadata;
}

/** The version of the protocol that these types are of. */
export const PROTOCOL_VERSION = 1;
