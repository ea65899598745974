// Builds dist/ (ES modules and types) and what the chat page and other apps' pages take from twin_sio/web; fails where
// something is over its size. `--check` only says whether the committed bundles are what the source gives.
import { execFileSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build, transform } from "esbuild";

const MOST_KB = { client: 15, widget: 56 }; // gzipped
const here = (path) => new URL(`../${path}`, import.meta.url).pathname;
const options = { bundle: true, format: "esm", target: "es2022", minify: true, write: false, legalComments: "none" };
const holds = (...names) =>
  names.map((name) => {
    const { version, license, author } = JSON.parse(readFileSync(here(`node_modules/${name}/package.json`), "utf8"));
    const by = typeof author === "string" ? author.replace(/ *[<(].*/, "") : author?.name;
    return `${name} ${version} (${[license, by].filter(Boolean).join(", ")})`;
  });

// What the views import as built files, the widget takes from the source, so that nothing is in it twice.
const fromSource = {
  name: "from-source",
  setup: ({ onResolve }) => {
    onResolve({ filter: /^\.\/twin-client\.js$/ }, () => ({ path: here("src/index.ts") }));
    onResolve({ filter: /^\.\/markdown\.js$/ }, () => ({ path: here("web/markdown.js") }));
  },
};
// The service speaks no WebTransport and takes nothing binary, and what is sent is JSON: the library's code for them stays
// out. What came in binary all the same, the library's parser refuses.
const LEFT_OUT = {
  "engine.io-client/build/esm/transports/webtransport.js": "export class WT {}",
  "engine.io-parser/build/esm/contrib/base64-arraybuffer.js": "export const decode = () => new ArrayBuffer(0);",
  "socket.io-parser/build/esm/is-binary.js": "export const isBinary = () => false; export const hasBinary = isBinary;",
  "socket.io-parser/build/esm/binary.js": "export const reconstructPacket = (packet) => packet; export const deconstructPacket = (packet) => ({ packet, buffers: [] });",
};
const unspoken = {
  name: "unspoken",
  setup: ({ onLoad }) => {
    for (const [path, contents] of Object.entries(LEFT_OUT)) onLoad({ filter: new RegExp(`/${path.replaceAll(".", "\\.")}$`) }, () => ({ contents }));
  },
};
const styles = {
  name: "styles",
  setup: ({ onLoad }) => {
    onLoad({ filter: /\.css$/ }, async ({ path }) => {
      const { code } = await transform(readFileSync(path, "utf8"), { loader: "css", minify: true, target: "es2022" });
      return { contents: code, loader: "text" };
    });
  },
};

const bundles = {
  "twin-client.js": { from: "src/index.ts", what: ["@twin-sio/client", ...holds("socket.io-client")], plugins: [unspoken] },
  "markdown.js": { from: "web/markdown.js", what: holds("marked", "marked-cjk-friendly") },
  "math.js": { from: "web/math.js", what: holds("temml") },
  "highlight.js": { from: "web/highlight.js", what: holds("lowlight", "highlight.js") },
  "widget.js": { from: "web/widget.js", what: ["@twin-sio/client", ...holds("socket.io-client", "marked", "marked-cjk-friendly")], format: "iife", plugins: [unspoken, fromSource, styles] },
};
for (const [name, { from, what, ...more }] of Object.entries(bundles)) {
  const banner = { js: `/* Made by npm run build of ${what.join(", ")} */` };
  const made = (await build({ ...options, ...more, entryPoints: [here(from)], banner })).outputFiles[0].text;
  const at = here(`../../twin_sio/web/${name}`);
  if (!process.argv.includes("--check")) writeFileSync(at, made);
  else if (readFileSync(at, "utf8") !== made) fail(`twin_sio/web/${name} is not what the source gives: npm run build`);
  if (name === "widget.js") told("the widget, with everything it needs", made, MOST_KB.widget);
}
if (!process.argv.includes("--check")) {
  rmSync(here("dist"), { recursive: true, force: true });
  execFileSync("npx", ["tsc", "--project", here("tsconfig.build.json")], { cwd: here("."), stdio: "inherit" });
}
const alone = await build({ ...options, entryPoints: [here("src/index.ts")], external: ["socket.io-client"] });
told("@twin-sio/client, without socket.io-client", alone.outputFiles[0].contents, MOST_KB.client);

function told(what, contents, most) {
  const kb = gzipSync(contents, { level: 9 }).length / 1024;
  console.log(`${what}: ${kb.toFixed(1)} kB gzipped (at most ${most})`);
  if (kb > most) fail(`${what}: larger than it may be`);
}

function fail(text) {
  console.error(text);
  process.exit(1);
}
