// Bundles the page that shows the client within the Vercel AI SDK, for `tests/test_ai_sdk.py`, into the file that is named.
import { build } from "esbuild";

const here = (path) => new URL(`../${path}`, import.meta.url).pathname;
const options = { bundle: true, format: "esm", target: "es2022", jsx: "automatic", define: { "process.env.NODE_ENV": '"development"' } };
await build({ ...options, entryPoints: [here("test/ai-sdk-page.tsx")], outfile: process.argv[2], absWorkingDir: here("."), logLevel: "error" });
