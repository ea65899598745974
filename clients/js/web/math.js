// Formulas as MathML, which browsers lay out themselves. Fetched when the first message with a formula is shown.
import temml from "temml";

const SOURCE_MOST = 2_000; // characters
const DEPTH_MOST = 40; // elements within one another: a browser's layout of more takes long
const NODES_MOST = 2_000;
const KEPT_MOST = 300;
// What a formula may define is expanded without an end, or hides what the next one means.
const DEFINES = /\\(?:[gex]?def|let|futurelet|global|long|(?:re|provide)?newcommand|DeclareMathOperator|newenvironment)(?![a-z])/i;
const SPACE = "http://www.w3.org/1998/Math/MathML";
const ELEMENTS = new Set("math merror mfrac mi mmultiscripts mn mo mover mpadded mphantom mprescripts mroot mrow ms mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover menclose none".split(" "));
const ATTRIBUTES = new Set("accent accentunder columnalign columnlines columnspacing columnspan depth display displaystyle fence form height largeop linebreak linethickness lspace mathvariant maxsize minsize movablelimits notation rowlines rowspacing rspace scriptlevel separator stretchy symmetric voffset width".split(" "));
const STYLES = new Set("backgroundColor border borderBottom borderColor borderLeft borderRight borderStyle borderTop color display fontFamily fontSize fontStyle fontWeight height margin marginLeft marginRight mathDepth mathStyle minWidth padding paddingBottom paddingLeft paddingRight paddingTop textAlign verticalAlign whiteSpace width".split(" "));
const LENGTH_MOST = 50; // em, or as many pixels times ten
const kept = new Map(); // what was asked for -> the element, or null

/** The formula as an element; null where it is to stay as it was written. */
export function typeset(source, display) {
  const asked = `${display}${source}`;
  if (!kept.has(asked)) {
    if (kept.size >= KEPT_MOST) kept.delete(kept.keys().next().value);
    kept.set(asked, made(source, display));
  }
  return kept.get(asked)?.cloneNode(true) ?? null;
}

function made(source, display) {
  if (source.length > SOURCE_MOST || DEFINES.test(source) || isDeep(source)) return null;
  try {
    const options = { displayMode: display, throwOnError: true, strict: true, trust: false, maxSize: [20, 200], maxExpand: 200 };
    return element(temml.__renderToMathMLTree(source, options), 0, { left: NODES_MOST });
  } catch {
    return null; // no formula, or more than can be shown
  }
}

function isDeep(source) {
  let depth = 0;
  for (const sign of source) {
    if (sign === "{") depth += 1;
    else if (sign === "}") depth -= 1;
    if (depth > DEPTH_MOST) return true;
  }
  return false;
}

// Made anew of what is allowed, whatever the library makes of a formula.
function element(node, depth, budget) {
  if (depth > DEPTH_MOST || (budget.left -= 1) < 0) throw new RangeError("too much");
  if (typeof node.text === "string") return document.createTextNode(node.text);
  const one = document.createElementNS(SPACE, ELEMENTS.has(node.type) ? node.type : "mtext");
  for (const [name, value] of Object.entries(node.attributes ?? {})) {
    if (ATTRIBUTES.has(name) && isSmall(value)) one.setAttribute(name, value);
  }
  for (const [name, value] of Object.entries(node.style ?? {})) {
    if (STYLES.has(name) && isSmall(value)) one.style[name] = value;
  }
  const classes = (node.classes ?? []).filter((name) => /^(?:tml-[a-z0-9-]+|upstrike|downstrike|sout|mathcal|mathscr)$/.test(name));
  if (classes.length > 0) one.setAttribute("class", classes.join(" "));
  one.append(...(node.children ?? []).map((child) => element(child, depth + 1, budget)));
  return one;
}

function isSmall(value) {
  const text = String(value);
  return !/url|expression|[;{}]/i.test(text) && !(text.match(/-?\d*\.?\d+(?=em|ex|rem|v[hw])/g) ?? []).some((one) => Math.abs(one) > LENGTH_MOST) && !(text.match(/-?\d*\.?\d+(?=p[xtc]|cm|mm|in)/g) ?? []).some((one) => Math.abs(one) > LENGTH_MOST * 10);
}
