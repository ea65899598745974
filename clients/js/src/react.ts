/** The client in React: `const twin = useTwin(client)` renders again whenever what is shown has changed. */
import { useMemo, useSyncExternalStore } from "react";
import type { TwinClient } from "./client.js";
import { conversation, DEFAULT_CONVERSATION, type Conversation, type State } from "./state.js";

export interface Twin {
  readonly state: State;
  readonly conversation: Conversation;
  readonly send: (text: string) => ReturnType<TwinClient["send"]>;
  readonly stop: (messageId: string) => Promise<void>;
  readonly regenerate: (messageId: string) => ReturnType<TwinClient["regenerate"]>;
  readonly feedback: TwinClient["feedback"];
  readonly typing: (isTyping: boolean) => void;
}

/** One conversation of a client. The client is made outside, and lives longer than a component: see `connect`. */
export function useTwin(client: TwinClient, conversationId: string = DEFAULT_CONVERSATION): Twin {
  const state = useSyncExternalStore(client.subscribe, () => client.state, () => client.state);
  const actions = useMemo(
    () => ({
      send: (text: string) => client.send(text, { conversationId }),
      stop: (messageId: string) => client.stop(messageId),
      regenerate: (messageId: string) => client.regenerate(messageId, conversationId),
      feedback: client.feedback.bind(client) as TwinClient["feedback"],
      typing: (isTyping: boolean) => client.typing(isTyping, conversationId),
    }),
    [client, conversationId],
  );
  return { state, conversation: conversation(state, conversationId), ...actions };
}
