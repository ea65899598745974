// Holds the service's document against the AsyncAPI specification, with the official parser.
import { readFileSync } from "node:fs";
import parser from "@asyncapi/parser";

const text = readFileSync(new URL("../../../docs/asyncapi.json", import.meta.url), "utf8");
const { document, diagnostics } = await new parser.Parser().parse(text);
const errors = diagnostics.filter((one) => one.severity === 0);
for (const one of errors) console.error(`${one.path.join(".")}: ${one.message}`);
if (!document || errors.length) process.exit(1);
console.log(`docs/asyncapi.json: valid AsyncAPI ${document.version()}, ${document.operations().length} operations`);
