/** The client in React: `const twin = useTwin(client)` renders again whenever what is shown has changed. */
import { useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import type { SendOptions, TwinClient } from "./client.js";
import type { Conversation } from "./conversation.js";
import type { HostTool } from "./protocol.js";
import { conversation, DEFAULT_CONVERSATION, type State } from "./state.js";
import type { RunTool } from "./tools.js";

export interface Twin {
  readonly state: State;
  readonly conversation: Conversation;
  readonly send: (text: string, options?: Omit<SendOptions, "conversationId">) => ReturnType<TwinClient["send"]>;
  readonly stop: (messageId: string) => Promise<void>;
  readonly regenerate: (messageId: string) => ReturnType<TwinClient["regenerate"]>;
  readonly feedback: TwinClient["feedback"];
  readonly approve: TwinClient["approve"];
  readonly typing: (isTyping: boolean) => void;
}

/** One conversation of a client. The client is made outside, and lives longer than a component: see `connect`. */
export function useTwin(client: TwinClient, conversationId: string = DEFAULT_CONVERSATION): Twin {
  const state = useSyncExternalStore(client.subscribe, () => client.state, () => client.state);
  const actions = useMemo(
    () => ({
      send: (text: string, options?: SendOptions) => client.send(text, { ...options, conversationId }),
      stop: (messageId: string) => client.stop(messageId),
      regenerate: (messageId: string) => client.regenerate(messageId, conversationId),
      feedback: client.feedback.bind(client) as TwinClient["feedback"],
      approve: client.approve.bind(client) as TwinClient["approve"],
      typing: (isTyping: boolean) => client.typing(isTyping, conversationId),
    }),
    [client, conversationId],
  );
  return { state, conversation: conversation(state, conversationId), ...actions };
}

/** The twin may use these tools while the component is there. They are offered anew where they have changed; of `run` it
 * is always the newest that is called. */
export function useHostTools(client: TwinClient, tools: readonly HostTool[], run: RunTool): void {
  const newest = useRef(run);
  useEffect(() => void (newest.current = run));
  const key = JSON.stringify(tools);
  useEffect(() => client.offerTools(JSON.parse(key) as HostTool[], (call) => newest.current(call)), [client, key]);
}
