import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";

test("what npm pack makes holds everything that is imported", () => {
  const here = new URL("..", import.meta.url).pathname;
  const folder = mkdtempSync(join(tmpdir(), "pack-"));
  const copy = join(folder, "clients", "js");
  try {
    cpSync(here, copy, { recursive: true, filter: (path) => !/\/(node_modules|dist)(\/|$)/.test(path) });
    symlinkSync(join(here, "node_modules"), join(copy, "node_modules"));
    cpSync(join(here, "../../twin_sio/web"), join(folder, "twin_sio", "web"), { recursive: true });
    execFileSync("npm", ["pack"], { cwd: copy, stdio: "pipe" });
    const { name, version, exports } = JSON.parse(readFileSync(join(copy, "package.json"), "utf8"));
    const archive = `${name.replace("@", "").replace("/", "-")}-${version}.tgz`;
    const held = execFileSync("tar", ["tzf", archive], { cwd: copy, encoding: "utf8" }).split("\n");
    for (const entry of Object.values<Record<string, string>>(exports))
      for (const path of Object.values(entry)) expect(held).toContain(path.replace(/^\./, "package"));
  } finally {
    rmSync(folder, { recursive: true });
  }
}, 60_000);
