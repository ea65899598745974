/** The real service around the tests: started once, stopped with them. */
import { spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { createInterface } from "node:readline";
import type { TestProject } from "vitest/node";

export interface Service {
  url: string;
  control: string;
  secret: string;
}

declare module "vitest" {
  export interface ProvidedContext {
    service: Service;
  }
}

const root = new URL("../../../", import.meta.url);

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const python = new URL(".venv/bin/python", root).pathname;
  const harness = spawn(python, ["-m", "tests.harness"], { cwd: root, stdio: ["pipe", "pipe", "inherit"] });
  const ended = new Promise<void>((resolve) => harness.once("exit", () => resolve()));
  const line = await Promise.race([
    new Promise<string>((resolve) => createInterface({ input: harness.stdout }).once("line", resolve)),
    ended.then(() => Promise.reject(new Error("The service did not start: is .venv there? `make setup-test`"))),
  ]);
  project.provide("service", JSON.parse(line) as Service);
  return async () => {
    harness.stdin.end();
    await ended;
  };
}

/** A token of this user, as the main app would make it. */
export function mint(service: Service, user: string, more: object = {}): string {
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + 3600, ...more };
  const head = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${head}.${createHmac("sha256", service.secret).update(head).digest("base64url")}`;
}

/** Ask the control of the running service. */
export async function control(service: Service, path: string, body?: object): Promise<any> {
  const init = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const response = await fetch(service.control + path, init);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return await response.json();
}
