// Writes src/protocol.ts from the service's AsyncAPI document; `--check` only says whether it is current.
import { readFileSync, writeFileSync } from "node:fs";
import { compile } from "json-schema-to-typescript";

const from = new URL("../../../docs/asyncapi.json", import.meta.url);
const to = new URL("../src/protocol.ts", import.meta.url);
const document = JSON.parse(readFileSync(from, "utf8"));
const schemas = document.components.schemas;

// One interface that refers to every schema makes the compiler name each of them once.
const root = {
  title: "Schemas",
  type: "object",
  additionalProperties: false,
  required: Object.keys(schemas),
  properties: Object.fromEntries(Object.keys(schemas).map((name) => [name, { $ref: `#/components/schemas/${name}` }])),
  components: { schemas: Object.fromEntries(Object.entries(schemas).map(([name, schema]) => [name, { title: name, ...schema }])) },
};
const banner = "// Made from the service's AsyncAPI document by `npm run generate`: do not edit.\n";
const types = await compile(root, "Schemas", { bannerComment: banner, additionalProperties: false, format: true, printWidth: 120, ignoreMinAndMaxItems: true });

const events = (prefix) =>
  Object.entries(document.components.messages)
    .filter(([key]) => key.startsWith(prefix))
    .map(([, message]) => `  ${message.name}: ${message.payload.properties.payload.$ref.split("/").pop()};`)
    .join("\n");
const maps = `
/** What a client may send, by event name. */
export interface ClientEvents {
${events("client_")}
}

/** What the server says, by event name. */
export interface ServerEvents {
${events("server_")}
}

export type ServerEventName = keyof ServerEvents;

/** What every event from the server carries. */
export interface Envelope<Name extends ServerEventName = ServerEventName> {
  type: Name;
  payload: ServerEvents[Name];
  metadata: ServerMetadata;
}

/** The version of the protocol that these types are of. */
export const PROTOCOL_VERSION = ${Number.parseInt(document.info.version, 10)};
`;
const made = types.replace(/export interface Schemas \{[\s\S]*?\n\}\n/, "") + maps;
if (process.argv.includes("--check")) {
  if (readFileSync(to, "utf8") !== made) {
    console.error("src/protocol.ts is not what the service's document gives: npm run generate");
    process.exit(1);
  }
} else {
  writeFileSync(to, made);
}
