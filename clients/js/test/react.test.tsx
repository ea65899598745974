// @vitest-environment jsdom
import { act, createElement } from "react";
import { createRoot } from "react-dom/client";
import { expect, inject, test } from "vitest";
import { connect, MemoryOutbox } from "../src/index.js";
import { useHostTools, useTwin } from "../src/react.js";
import { control, mint } from "./service.js";

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

test("a component lets the twin use what it can do, while it is there", async () => {
  const service = inject("service");
  const user = `react-tools-${Date.now()}`;
  const client = connect({ url: service.url, getToken: () => mint(service, user), transports: ["websocket"], outbox: new MemoryOutbox() });
  const calls: unknown[] = [];
  function Board({ name }: { name: string }) {
    const tools = [{ name: "open_board", description: "Opens a board.", parameters: {}, needs_approval: false }];
    useHostTools(client, tools, ({ arguments: given }) => calls.push([name, given["id"]]));
    return null;
  }
  const root = createRoot(document.createElement("div"));
  await act(async () => root.render(createElement(Board, { name: "first" })));
  await act(async () => root.render(createElement(Board, { name: "second" })));
  const asking = (said: string) => [
    control(service, "/script", { contains: said, streams: true, answered: 0, calls: [{ name: "open_board", arguments: { id: "7" } }] }),
    control(service, "/script", { contains: said, streams: true, answered: 1, tokens: ["There it is."] }),
  ];
  const answered = (count: number) => client.until((state) => state.conversations["main"]?.messages.filter((one) => one.state === "complete").length === count);
  await Promise.all(asking(`board of ${user}`));
  client.send(`board of ${user}`);
  await answered(1);
  expect(calls).toEqual([["second", "7"]]);
  await act(async () => root.unmount());
  await Promise.all(asking(`again, ${user}`));
  client.send(`again, ${user}`);
  const state = await answered(2);
  expect(calls).toHaveLength(1);
  expect(state.conversations["main"]?.messages.at(-1)?.steps).toMatchObject([{ name: "open_board", state: "failed" }]);
  client.close();
});
