/**
 * What people write, as Markdown: rendered by marked, and whatever comes out of that sanitised by DOMPurify. HTML in it is
 * shown as the text that it is, and pictures are left to links: nobody's browser asks a stranger's server by itself.
 */
import { part } from "./part.js";

const MARKED = "/vendor/marked/marked.esm.js";
const PURIFY = "/vendor/dompurify/purify.es.mjs";

const TAGS = [
  ...["p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "code", "em", "strong", "del", "a"],
  ...["ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"],
];

let loading = null;

/** Loads both once. Without them what is written is shown as it is. */
function load() {
  loading ??= Promise.all([part(MARKED), part(PURIFY)])
    .then(([{ Marked }, { default: purify }]) => [configure(Marked), guard(purify)])
    .catch(() => {
      loading = null; // the next text tries again
      return null;
    });
  return loading;
}

function configure(Marked) {
  const renderer = {
    html: ({ text }) => escape(text),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
  };
  return new Marked({ gfm: true, breaks: true, async: false, renderer });
}

function guard(purify) {
  purify.addHook("afterSanitizeAttributes", (node) => {
    if (node.tagName !== "A") return;
    if (!/^(https?:|mailto:)/i.test(node.getAttribute("href") ?? "")) node.removeAttribute("href");
    node.setAttribute("rel", "nofollow ugc noopener noreferrer");
    node.setAttribute("target", "_blank");
  });
  return purify;
}

/**
 * Shows a text in an element.
 *
 * @param {HTMLElement} element
 * @param {string} text
 */
export async function showMarkdown(element, text) {
  const parts = await load();
  if (!parts) {
    element.textContent = text;
    return;
  }
  const [marked, purify] = parts;
  const options = {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", "title", "start", "align"],
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  };
  element.replaceChildren(purify.sanitize(marked.parse(text), options));
  for (const block of element.children) block.dir = "auto"; // each may run from right to left
}

function escape(text) {
  const replacements = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return text.replace(/[&<>"']/g, (character) => replacements[character]);
}
