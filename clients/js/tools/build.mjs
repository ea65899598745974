// Builds dist/ (ES modules and types) and the bundle that the chat page uses; fails where the client is over its size.
// `--check` only says whether the committed bundle is what the source gives.
import { execFileSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const MOST_BYTES = 15 * 1024;
const here = (path) => new URL(`../${path}`, import.meta.url).pathname;
const bundle = here("../../twin_sio/web/twin-client.js");
const includes = JSON.parse(readFileSync(here("node_modules/socket.io-client/package.json"), "utf8"));
const options = { bundle: true, format: "esm", target: "es2022", minify: true, write: false, legalComments: "none" };

const page = await build({
  ...options,
  entryPoints: [here("src/index.ts")],
  banner: { js: `/* @twin-sio/client with socket.io-client ${includes.version} (MIT, Guillermo Rauch). Built: npm run build */` },
});
const made = page.outputFiles[0].text;
if (process.argv.includes("--check")) {
  if (readFileSync(bundle, "utf8") !== made) fail("twin_sio/web/twin-client.js is not what the source gives: npm run build");
} else {
  writeFileSync(bundle, made);
  rmSync(here("dist"), { recursive: true, force: true });
  execFileSync("npx", ["tsc", "--project", here("tsconfig.build.json")], { cwd: here("."), stdio: "inherit" });
}
const alone = await build({ ...options, entryPoints: [here("src/index.ts")], external: ["socket.io-client"] });
const bytes = gzipSync(alone.outputFiles[0].contents, { level: 9 }).length;
console.log(`@twin-sio/client: ${(bytes / 1024).toFixed(1)} kB gzipped without socket.io-client (at most ${MOST_BYTES / 1024})`);
if (bytes > MOST_BYTES) fail("the client is larger than it may be");

function fail(text) {
  console.error(text);
  process.exit(1);
}
