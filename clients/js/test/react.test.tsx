// @vitest-environment jsdom
import { act, createElement } from "react";
import { createRoot } from "react-dom/client";
import { expect, inject, test } from "vitest";
import { connect, MemoryOutbox } from "../src/index.js";
import { useTwin } from "../src/react.js";
import { mint } from "./service.js";

test("a component shows the conversation as it comes", async () => {
  (globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;
  const service = inject("service");
  const user = `react-${Date.now()}`;
  const client = connect({ url: service.url, getToken: () => mint(service, user), transports: ["websocket"], outbox: new MemoryOutbox() });
  function Chat() {
    const twin = useTwin(client);
    const lines = twin.conversation.messages.map((one) => createElement("li", { key: one.id }, `${one.state} ${one.text}`));
    return createElement("div", { onClick: () => twin.send("hello") }, twin.state.connection, ...lines);
  }
  const place = document.createElement("div");
  const root = createRoot(place);
  await act(async () => root.render(createElement(Chat)));
  await act(async () => void (await client.until((state) => state.connection === "online")));
  expect(place.textContent).toContain("online");
  act(() => void client.send("hello"));
  expect(place.textContent).toContain("sending hello");
  await act(async () => void (await client.until((state) => state.conversations["main"]?.messages.some((one) => one.state === "complete") ?? false)));
  expect(place.textContent).toMatch(/stored hello.*complete You said: hello/);
  await act(async () => root.unmount());
  client.close();
});
