// What of a text is a formula, as extensions of the Markdown parser: $..$ and \(..\) in a line, $$..$$ and \[..\] on
// lines of their own. Prices, variables of a shell and what stands in code are none.
const CLOSING = { "\\(": "\\)", "\\[": "\\]" };
const MOST = 20_000; // characters in which its end is looked for
const INLINE = /^\$((?:\\[^\n]|[^\\$`\n]|\n(?![ \t]*\n)){1,1000}?)\$(?![\p{Script=Latin}\p{Script=Greek}\p{Script=Cyrillic}\p{N}$])/u;
const BEFORE = /[\p{Script=Latin}\p{Script=Greek}\p{Script=Cyrillic}\p{N}$\\]$/u; // 5$, a$b: the sign opens nothing
const MARKS = /\$|\\[([]/g;
const MARKS_MOST = 1000; // a text with more of them is not made of formulas
const SIGNS = /[\\^_={}+\-*/<>|()\d'!]/;
const LETTERS = /^\p{L}{1,3}$/u;
const PRICE = /^\d[\d.,]*(?:\s+|\/)\p{L}{2,}/u;
const PROSE = /\p{L}{3,}[,;:.]?\s+\p{L}{3,}/u;
const FOOTNOTE = /^(?:\d+|x)$/i; // or a box that is ticked
const BLANK_LINE = /\n[ \t]*\n/;

/** Whether formulas are to be looked for in a text. */
export function mayHoldFormulas(text) {
  const marks = text.match(MARKS)?.length ?? 0;
  return marks > 1 && marks <= MARKS_MOST;
}

/** The formula at the beginning of `source`, which stands behind `before`: `{raw, text, display}`; undefined for none. */
export function formulaAt(source, before = "") {
  const open = source.slice(0, 2);
  if (open in CLOSING) return between(source, CLOSING[open]);
  if (source[0] !== "$" || BEFORE.test(before)) return undefined;
  return open === "$$" ? doubled(source) : single(source);
}

function between(source, close) {
  for (const { 0: pair, index } of source.slice(2, MOST).matchAll(/\\[\s\S]|\n[ \t]*\n/g)) {
    if (pair === close) return escaped(formula(source, index + 2, pair === "\\]"));
    if (pair in CLOSING || pair[0] === "\n") return undefined;
  }
  return undefined;
}

// Markdown writes a bracket that is no link in the same way.
function escaped(found) {
  return found && isMath(found.text) && !(found.display && FOOTNOTE.test(found.text)) ? found : undefined;
}

function doubled(source) {
  const end = source.slice(0, MOST).indexOf("$$", 2);
  const found = end < 0 ? undefined : formula(source, end, true);
  const isOne = found && !BLANK_LINE.test(found.raw) && isMath(found.text) && !/^\p{L}{2,}$/u.test(found.text);
  return isOne ? found : undefined;
}

function single(source) {
  const [raw, text] = INLINE.exec(source) ?? [];
  return raw && text.trim() === text && isMath(text) && !PRICE.test(text) ? { raw, text, display: false } : undefined;
}

function formula(source, end, display) {
  const text = source.slice(2, end).trim();
  return text ? { raw: source.slice(0, end + 2), text, display } : undefined;
}

function isMath(text) {
  return (SIGNS.test(text) || LETTERS.test(text)) && !PROSE.test(text.replace(/\\[a-z]+|\{[^{}]*\}/gi, " "));
}

// A formula's stars and underscores are no emphasis: the parser looks for that in a text where they are hidden.
function emStrongMask(source) {
  let masked = "";
  let from = 0;
  const marks = /\$+|\\[\s\S]/g;
  for (let mark = marks.exec(source); mark; mark = marks.exec(source)) {
    const found = formulaAt(source.slice(mark.index), source.slice(0, mark.index).slice(-1));
    if (!found) continue;
    marks.lastIndex = mark.index + found.raw.length;
    masked += source.slice(from, mark.index) + "a".repeat(found.raw.length);
    from = marks.lastIndex;
  }
  return masked + source.slice(from);
}

const inline = {
  name: "formula",
  level: "inline",
  // As far as plain text goes by itself: it ends at all other marks.
  start: (source) => {
    const at = source.search(/[$\\<!\[`*~_]/);
    return source[at] === "$" ? at : undefined;
  },
  tokenizer: (source, tokens) => {
    const found = formulaAt(source, tokens.at(-1)?.raw.slice(-1));
    return found && { type: "formula", ...found };
  },
};

const block = {
  name: "formulaBlock",
  level: "block",
  start: (source) => {
    const found = /\n[ \t]*\n|^ {0,3}(?:\$\$|\\\[)/m.exec(source);
    return found && found[0][0] !== "\n" ? found.index : undefined;
  },
  tokenizer: (source) => {
    const [indent] = /^ {0,3}(?=\$\$|\\\[)/.exec(source) ?? [];
    const found = indent === undefined ? undefined : formulaAt(source.slice(indent.length));
    const [rest] = (found && /^[ \t]*(?:\n|$)/.exec(source.slice(indent.length + found.raw.length))) || [];
    return rest === undefined ? undefined : { ...found, type: "formulaBlock", raw: indent + found.raw + rest };
  },
};

export const formulas = { extensions: [inline, block], hooks: { emStrongMask } };
