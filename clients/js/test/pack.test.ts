import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";

const here = new URL("..", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "pack-"));
const { name, version, exports, devDependencies } = JSON.parse(readFileSync(join(here, "package.json"), "utf8"));
const copy = join(folder, "clients", "js");
const archive = join(copy, `${name.replace("@", "").replace("/", "-")}-${version}.tgz`);

beforeAll(() => {
  cpSync(here, copy, { recursive: true, filter: (path) => !/\/(node_modules|dist)(\/|$)/.test(path) });
  symlinkSync(join(here, "node_modules"), join(copy, "node_modules"));
  cpSync(join(here, "../../twin_sio/web"), join(folder, "twin_sio", "web"), { recursive: true });
  run("npm", ["pack"], copy);
}, 60_000);

afterAll(() => rmSync(folder, { recursive: true }));

test("what npm pack makes holds everything that is imported", () => {
  const held = execFileSync("tar", ["tzf", archive], { encoding: "utf8" }).split("\n");
  for (const entry of Object.values<Record<string, string>>(exports))
    for (const path of Object.values(entry)) expect(held).toContain(path.replace(/^\./, "package"));
});

// As `npm create vite` makes it, with everything strict that TypeScript has, and no types left unchecked.
const PROJECT: Record<string, string> = {
  "package.json": JSON.stringify({ name: "app", private: true, type: "module" }),
  "index.html": '<!doctype html><div id="root"></div><script type="module" src="/src/main.tsx"></script>',
  "vite.config.ts": `import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";
export default defineConfig({ plugins: [react()], build: { minify: false } });`,
  "tsconfig.json": JSON.stringify({
    compilerOptions: {
      ...{ target: "es2023", lib: ["es2023", "dom", "dom.iterable"], types: ["vite/client"], module: "esnext" },
      ...{ moduleResolution: "bundler", jsx: "react-jsx", noEmit: true, verbatimModuleSyntax: true },
      ...{ strict: true, noUnusedLocals: true, noUnusedParameters: true, noUncheckedIndexedAccess: true },
      ...{ exactOptionalPropertyTypes: true, noImplicitOverride: true, noPropertyAccessFromIndexSignature: true },
      ...{ erasableSyntaxOnly: true, noFallthroughCasesInSwitch: true, skipLibCheck: false },
    },
    include: ["src"],
  }),
  "src/main.tsx": `import { connect, TwinError, type TwinClient, type protocol } from "@twin-sio/client";
import { useTwin } from "@twin-sio/client/react";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

const getToken = async (): Promise<string> => (await fetch("/token")).text();
const client = connect({ url: "https://chat.example.com", getToken });

function Chat({ client }: { client: TwinClient }) {
  const { conversation, send } = useTwin(client);
  const greet = async () => {
    try {
      await send("Hello").receipt;
    } catch (error) {
      if (error instanceof TwinError) console.warn(error.code satisfies string);
    }
  };
  const asked: protocol.UserMessage = { text: "Hello" };
  return (
    <main>
      {conversation.messages.map((message) => (
        <p key={message.id}>{message.text}</p>
      ))}
      <button onClick={() => void greet()}>{asked.text}</button>
    </main>
  );
}

const root = document.getElementById("root");
if (root) createRoot(root).render(<StrictMode><Chat client={client} /></StrictMode>);
`,
};

test("an empty Vite project with React and strict TypeScript builds with it", () => {
  const app = join(folder, "app");
  for (const [path, text] of Object.entries(PROJECT)) {
    mkdirSync(join(app, path, ".."), { recursive: true });
    writeFileSync(join(app, path), text);
  }
  const install = ["install", "--no-audit", "--no-fund"];
  run("npm", [...install, archive, "socket.io-client@4.8", "react@19", "react-dom@19"], app); // as the README has it
  const built = ["vite@8", "@vitejs/plugin-react@6", `typescript@${devDependencies.typescript}`];
  run("npm", [...install, "--save-dev", ...built, "@types/react@19", "@types/react-dom@19"], app);
  run("npx", ["tsc"], app);
  run("npx", ["vite", "build"], app);
  const assets = join(app, "dist", "assets");
  const made = readdirSync(assets).map((file) => readFileSync(join(assets, file), "utf8"));
  expect(made.join()).toContain("https://chat.example.com");
}, 180_000);

function run(program: string, words: string[], cwd: string): void {
  try {
    execFileSync(program, words, { cwd, stdio: "pipe", encoding: "utf8" });
  } catch (error) {
    const { stdout, stderr } = error as { stdout: string; stderr: string };
    throw new Error(`${program} ${words.join(" ")}: ${stdout}${stderr}`);
  }
}
