// Colours for code, as elements. Fetched by the page when the first block of code in a known language is shown.
import { createLowlight } from "lowlight";
import bash from "highlight.js/lib/languages/bash";
import css from "highlight.js/lib/languages/css";
import go from "highlight.js/lib/languages/go";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import kotlin from "highlight.js/lib/languages/kotlin";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import swift from "highlight.js/lib/languages/swift";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";

const MOST = 20_000; // characters; longer code stays plain
const languages = { bash, css, go, java, javascript, json, kotlin, python, rust, sql, swift, typescript, xml, yaml };
const lowlight = createLowlight(languages);

/** The nodes of `code`, coloured; null where the language is not known. */
export function highlight(code, language) {
  if (code.length > MOST || !lowlight.registered(language)) return null;
  return lowlight.highlight(language, code).children.map(node);
}

function node(part) {
  if (part.type === "text") return document.createTextNode(part.value);
  const made = document.createElement("span");
  made.className = part.properties.className.join(" ");
  made.append(...part.children.map(node));
  return made;
}
