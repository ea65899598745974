// Markdown as elements, never as HTML: the text is read into tokens, and each token becomes an element that is made here.
// What a text holds in HTML is shown as it was written; a link leads to the web or to a mailbox, or is no link.
import { Marked } from "marked";
import cjkFriendly from "marked-cjk-friendly";
import { formulas, mayHoldFormulas } from "./formulas.js";

const options = { gfm: true, breaks: true };
const oneTilde = { tokenizer: { del: (source) => (source.startsWith("~~") ? false : undefined) } }; // a range: 3~5
const marked = new Marked(options, cjkFriendly(), oneTilde);
const withFormulas = new Marked(options, cjkFriendly(), oneTilde, formulas);
const SAFE = new Set(["http:", "https:", "mailto:"]);
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
// More containers within one another, or more stars in a row, than anybody writes: the parser would run out of stack.
const TOO_DEEP = /^(?:[ \t]*(?:[-*+>]|\d{1,9}[.)])[ \t]?){33}|[*_~]{200}/m;
const DEPTH_MAX = 32;
const CELL_SHORT = 24; // characters that stay on one line: a number with its unit, a date, a name
const FORMULAS_MOST = 300; // that are typeset in a block
const tokenOf = new WeakMap(); // a formula's element -> its token
const shown = new WeakMap(); // an element -> what it shows: the source of each of its blocks

/**
 * The blocks of `text`; one paragraph with the text as it was written where it cannot be read as Markdown.
 */
function blocksOf(text) {
  try {
    const parser = mayHoldFormulas(text) ? withFormulas : marked;
    if (!TOO_DEEP.test(text)) return parser.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
  } catch {
    // Whatever the parser makes of it, an answer is never shown empty.
  }
  return [{ type: "unread", raw: text }];
}

/**
 * Show `text` in `into`. Called again with a longer text it touches only the blocks that have changed, so that what was
 * selected or scrolled stays. `highlight(code, language)` may give a promise of nodes for a block of code, or null;
 * `typeset(source, display)` an element for a formula, or a promise of it, or null.
 */
export function showMarkdown(into, text, highlight = () => null, typeset = () => null) {
  const tokens = blocksOf(text);
  const before = shown.get(into) ?? [];
  let same = 0;
  while (same < before.length && same < tokens.length && before[same] === tokens[same].raw) same += 1;
  let changed = same;
  if (tokens[same] && grown(into.children[same], tokens[same])) {
    colour(into.children[same], tokens[same], highlight);
    changed += 1;
  }
  const top = tokens.find((token) => token.type === "heading")?.depth;
  while (into.children.length > changed) into.lastElementChild.remove();
  for (const token of tokens.slice(changed)) {
    const made = block(token, highlight, top);
    if (token.type !== "code") made.dir = "auto"; // each block runs as its own letters do
    into.append(made);
    for (const box of [...made.querySelectorAll(".math")].slice(0, FORMULAS_MOST)) fill(box, typeset);
  }
  shown.set(into, tokens.map((token) => token.raw));
}

// A block of code that goes on: its text alone is changed, and the place to which it was scrolled stays.
function grown(element, token) {
  const code = element?.querySelector(":scope > pre > code");
  if (token.type !== "code" || !code || element.dataset.language !== languageOf(token)) return false;
  if (!token.text.startsWith(code.textContent)) return false;
  code.textContent = token.text;
  return true;
}

function block(token, highlight, top = token.depth, depth = 0) {
  if (depth > DEPTH_MAX) return asWritten(token);
  const inner = (one) => block(one, highlight, undefined, depth + 1);
  switch (token.type) {
    case "heading":
      // Under the page's own headings, whatever the text thinks of itself: its first one is of the third rank.
      return make(`h${Math.min(6, 3 + Math.max(0, token.depth - top))}`, inline(token.tokens));
    case "code":
      return codeBlock(token, highlight);
    case "blockquote":
      return make("blockquote", token.tokens.filter((one) => one.type !== "space").map(inner));
    case "list":
      return list(token, inner);
    case "table":
      return table(token);
    case "hr":
      return make("hr");
    case "formulaBlock":
      return make("p", [formula(token)]);
    case "paragraph":
      return make("p", inline(token.tokens));
    case "text":
      return make("span", token.tokens ? inline(token.tokens) : [plain(token)]);
    default:
      return asWritten(token); // HTML, and what else there may be
  }
}

function asWritten(token) {
  const made = make("p", [token.raw.trimEnd()]);
  made.className = "as-written";
  return made;
}

function codeBlock(token, highlight) {
  const pre = make("pre", [make("code", [token.text])]);
  pre.dir = "ltr";
  const box = make("div", [pre]);
  box.className = "code";
  box.dataset.language = languageOf(token);
  scrollable(pre, box.dataset.language ? `Code, ${box.dataset.language}` : "Code");
  colour(box, token, highlight);
  return box;
}

function languageOf(token) {
  return (token.lang ?? "").split(/\s/)[0].toLowerCase().slice(0, 20);
}

async function colour(box, token, highlight) {
  const code = box.querySelector("code");
  const nodes = await highlight(token.text, languageOf(token));
  if (nodes && code.textContent === token.text) code.replaceChildren(...nodes);
}

function list(token, inner) {
  const made = make(token.ordered ? "ol" : "ul", token.items.map((item) => {
    const parts = item.tokens.filter((one) => one.type !== "space" && one.type !== "checkbox");
    const li = make("li", parts.map(inner));
    if (item.task) li.prepend(item.checked ? "\u2611 " : "\u2610 ");
    return li;
  }));
  if (token.ordered && token.start !== 1 && Number.isSafeInteger(token.start)) made.start = token.start;
  return made;
}

function table(token) {
  const row = (cells, tag) => make("tr", cells.map((cell, index) => {
    const made = make(tag, inline(cell.tokens));
    if (token.align[index]) made.dataset.align = token.align[index];
    if (cell.text.length <= CELL_SHORT) made.className = "short";
    return made;
  }));
  const made = make("table", [
    make("thead", [row(token.header, "th")]),
    make("tbody", token.rows.map((cells) => row(cells, "td"))),
  ]);
  const box = make("div", [made]);
  box.className = "table";
  return scrollable(box, "Table");
}

// What is wider than its place is scrolled by keyboard, too.
function scrollable(box, label) {
  box.tabIndex = 0;
  box.setAttribute("role", "group"); // not a region: several of a name would be landmarks that cannot be told apart
  box.setAttribute("aria-label", label);
  return box;
}

function inline(tokens) {
  return (tokens ?? []).map((token) => {
    switch (token.type) {
      case "strong":
      case "em":
      case "del":
        return make(token.type, inline(token.tokens));
      case "codespan":
        return make("code", [token.text]);
      case "br":
        return make("br");
      case "formula":
        return formula(token);
      case "escape":
        return token.text;
      case "link":
        return link(token.href, token.tokens ? inline(token.tokens) : [token.text]);
      case "image": // a picture would tell its host who reads: it is a link
        return link(token.href, [token.text || token.href]);
      case "text":
        return token.tokens ? make("span", inline(token.tokens)) : plain(token);
      default:
        return token.raw;
    }
  });
}

// As it was written, until it is typeset.
function formula(token) {
  const box = make("span", [token.raw.trim()]);
  box.className = "math";
  if (token.display) box.dataset.display = "";
  tokenOf.set(box, token);
  return box;
}

async function fill(box, typeset) {
  const { text, display } = tokenOf.get(box);
  const made = typeset(text, display);
  const node = made instanceof Promise ? await made : made; // at once where it can be: nothing is to jump
  if (!node) return;
  box.replaceChildren(node);
  if (display) scrollable(box, "Formula");
}

function link(href, nodes) {
  const address = URL.canParse(href) ? new URL(href) : null;
  if (!address || !SAFE.has(address.protocol)) return make("span", nodes);
  const made = make("a", nodes);
  made.href = address.href;
  made.target = "_blank";
  made.rel = "noopener noreferrer nofollow";
  return made;
}

function plain(token) {
  return token.text.replace(/&(?:#(\d{1,7})|#x([\da-f]{1,6})|(\w+));/gi, (whole, decimal, hex, name) => {
    if (name) return ENTITIES[name] ?? whole;
    const code = Number.parseInt(decimal ?? hex, decimal ? 10 : 16);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}

function make(tag, nodes = []) {
  const made = document.createElement(tag);
  made.append(...nodes);
  return made;
}
