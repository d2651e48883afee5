/**
 * Files: the materials of a lecture, and one's own picture. Small ones go through the server, large ones in parts
 * straight to the store.
 */
import { explain, Problem } from "./api.js";
import { disabledDuring, h, keepFocus, oneAtATime, setText } from "./dom.js";

const DIRECT_BYTES = 25 * 2 ** 20;
// What browsers, or the systems that they ask, often have no type for.
const BY_ENDING = new Map([
  ["7z", "application/x-7z-compressed"],
  ["csv", "text/csv"],
  ["epub", "application/epub+zip"],
  ["ipynb", "application/x-ipynb+json"],
  ["json", "application/json"],
  ["md", "text/markdown"],
  ["mkv", "video/x-matroska"],
  ["vtt", "text/vtt"],
]);
const PICTURES = "image/png,image/jpeg,image/gif,image/webp";

/**
 * Sends a file; its row.
 *
 * @param {import("./api.js").Api} api
 * @param {File} file
 * @param {Record<string, string>} members  purpose, visibility, course_id, lecture_id
 * @param {(share: number) => void} onprogress  0 to 1
 */
export async function uploadFile(api, file, members, onprogress) {
  if (file.size <= DIRECT_BYTES) {
    const form = new FormData();
    for (const [name, value] of Object.entries(members)) form.append(name, value);
    form.append("file", file, file.name);
    const answer = await api.authorised((token) =>
      send("POST", "/api/files/upload", form, { Authorization: `Bearer ${token}` }, (sent, all) => onprogress(sent / all)),
    );
    return JSON.parse(answer.text);
  }
  const begun = await api.call("POST", "/api/files/upload/start", {
    ...members,
    filename: file.name,
    size_bytes: file.size,
    content_type: file.type || BY_ENDING.get(file.name.split(".").at(-1).toLowerCase()) || "application/octet-stream",
  });
  try {
    const parts = await sendParts(begun, file, onprogress);
    const done = { file_id: begun.file_id, upload_id: begun.upload_id, parts };
    return await again(() => api.call("POST", "/api/files/upload/complete", done));
  } catch (error) {
    // Nobody goes on with it, and it would count against the quota for a day.
    await api.call("DELETE", `/api/files/upload/${begun.upload_id}`).catch(() => {});
    throw error;
  }
}

async function sendParts(begun, file, onprogress) {
  const parts = [];
  for (const { number, url } of begun.parts) {
    const from = (number - 1) * begun.part_size;
    const part = file.slice(from, from + begun.part_size);
    const { etag } = await again(() => send("PUT", url, part, {}, (sent) => onprogress((from + sent) / file.size)));
    parts.push({ number, etag });
  }
  return parts;
}

/** What did not get through is sent again, three times at most; what was refused is not. */
async function again(work) {
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (tries === 3 || (error.status >= 400 && error.status < 500)) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * tries));
    }
  }
}

/** XMLHttpRequest, since fetch does not tell how much has been sent. */
function send(method, url, body, headers, onprogress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", ({ loaded, total }) => onprogress(loaded, total));
    request.addEventListener("error", () => reject(new Problem(0)));
    request.addEventListener("load", () => {
      const { status, responseText: text } = request;
      if (status < 300) resolve({ text, etag: request.getResponseHeader("ETag") });
      else reject(new Problem(status, read(text)));
    });
    request.send(body);
  });
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

/**
 * What there is to a lecture beside its video; who runs the course adds to it and takes away.
 *
 * @param {{api: import("./api.js").Api, lecture: object, owner: boolean}} options
 * @returns {HTMLElement}
 */
export function materials({ api, lecture, owner }) {
  const list = h("ul", { class: "materials" });
  const told = h("p", { role: "status", class: "quiet", tabindex: "-1" });
  const fail = (error) => setText(told, explain(error));
  const add = (file) => list.append(material(api, file, { owner, told, fail }));
  (lecture.files ?? []).forEach(add);
  const members = { purpose: "material", visibility: "course", course_id: lecture.course_id, lecture_id: lecture.id };
  return h(
    "section",
    { class: "card files", "aria-label": "Materials", hidden: !owner && list.children.length === 0 },
    h("h2", { class: "section" }, "Materials"),
    list,
    owner && chooser({ label: "Add a file", told, send: (file, onprogress) => uploadFile(api, file, members, onprogress), done: add }),
    told,
  );
}

function material(api, file, { owner, told, fail }) {
  const open = async () => {
    try {
      const { url } = await api.call("GET", `/api/files/${file.id}?redirect=false`);
      // A link without a window of its own: what a browser cannot show it saves.
      h("a", { href: url, target: "_blank", rel: "noopener noreferrer" }).click();
    } catch (error) {
      fail(error);
    }
  };
  const remove = oneAtATime(async () => {
    if (!confirm(`Delete “${file.filename}”? It cannot be brought back.`)) return;
    try {
      await api.call("DELETE", `/api/files/${file.id}`);
      keepFocus(row.parentElement, () => row.remove(), told);
      setText(told, `“${file.filename}” is deleted.`);
    } catch (error) {
      fail(error);
    }
  });
  const row = h(
    "li",
    null,
    h("button", { type: "button", class: "link", onclick: open }, file.filename),
    h("span", { class: "quiet" }, size(file.size_bytes)),
    owner && h("button", { type: "button", class: "link", onclick: remove, "aria-label": `Delete ${file.filename}` }, "Delete"),
  );
  return row;
}

/**
 * One's own picture. @param {{api: import("./api.js").Api, user: object}} options
 * @returns {HTMLElement}
 */
export function avatar({ api, user }) {
  const picture = h("img", { class: "avatar", alt: "Your picture", width: 80, height: 80 });
  const told = h("p", { role: "status", class: "quiet" });
  const show = ({ avatar_url: url }) => {
    picture.hidden = !url;
    if (url) picture.src = url;
  };
  show(user);
  const members = { purpose: "avatar", visibility: "public" };
  return h(
    "div",
    { class: "files" },
    picture,
    chooser({
      label: user.avatar_url ? "Change your picture" : "Add a picture of you",
      accept: PICTURES,
      told,
      send: async (file, onprogress) => {
        const { id } = await uploadFile(api, file, members, onprogress);
        return api.call("PATCH", "/api/auth/me", { avatar_file_id: id });
      },
      done: show,
    }),
    told,
  );
}

/** A button that lets one choose a file and sends it, with how far it is. */
function chooser({ label, accept, told, send, done }) {
  const field = h("input", { type: "file", accept, class: "visually-hidden" });
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Sent" });
  const sendIt = async (file) => {
    bar.value = 0;
    bar.hidden = false;
    setText(told, `Sending “${file.name}” …`);
    try {
      done(await send(file, (share) => (bar.value = share)));
      setText(told, `“${file.name}” is there.`);
    } catch (error) {
      setText(told, explain(error));
    } finally {
      bar.hidden = true;
      field.value = "";
    }
  };
  field.addEventListener("change", () => {
    const [file] = field.files;
    if (file) disabledDuring(field, () => sendIt(file));
  });
  return h("p", { class: "chooser" }, h("label", { class: "plain" }, field, label), bar);
}

/** @param {number} bytes */
function size(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  const at = Math.min(Math.floor(Math.log10(bytes) / 3), 3);
  return `${(bytes / 1000 ** at).toPrecision(3)} ${["", "kB", "MB", "GB"][at]}`;
}
