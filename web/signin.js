/**
 * Signing in and making an account, on one page.
 */
import { explain, sentence } from "./api.js";
import { disabledDuring, entitle, h, setText } from "./dom.js";

/**
 * @param {object} options
 * @param {import("./api.js").Api} options.api
 * @param {string} options.next   where to go afterwards
 * @param {(hash: string) => void} options.navigate
 */
export function signInPage({ api, next, navigate }) {
  const holder = h("div", { class: "entry card" });
  const show = (form) => {
    holder.replaceChildren(form);
    if (!holder.isConnected) return;
    entitle(form.querySelector("h1").textContent);
    holder.querySelector("input").focus();
  };
  const done = () => navigate(next);
  const signIn = () =>
    entryForm({
      title: "Sign in",
      action: "Sign in",
      fields: [
        { name: "login", label: "User name or e-mail", autocomplete: "username" },
        { name: "password", label: "Password", type: "password", autocomplete: "current-password" },
      ],
      submit: async ({ login, password }) => {
        await api.signIn(login, password);
        done();
      },
      aside: [
        "New here? ",
        h("button", { type: "button", class: "link", onclick: () => show(register()) }, "Create an account"),
        " · ",
        h("a", { class: "link", href: "#/forgot" }, "Forgot password?"),
      ],
    });
  const register = () =>
    entryForm({
      title: "Create an account",
      action: "Create account",
      fields: [
        { name: "username", label: "User name", autocomplete: "username", maxlength: 64 },
        { name: "email", label: "E-mail", type: "email", autocomplete: "email" },
        {
          name: "password",
          label: "Password",
          type: "password",
          autocomplete: "new-password",
          minlength: 8,
          maxlength: 256,
          hint: "At least 8 characters.",
        },
      ],
      submit: async ({ username, email, password }) => {
        await api.register(username, email, password);
        done();
      },
      aside: ["Been here before? ", h("button", { type: "button", class: "link", onclick: () => show(signIn()) }, "Sign in")],
    });
  show(signIn());
  return h("div", { class: "page narrow" }, holder);
}

/** A form on a card; its faults stand beside their fields. `heading` is the level of its title. */
export function entryForm({ title, heading = "h1", action, fields, submit, aside }) {
  const failure = h("p", { class: "failure", role: "alert", hidden: true });
  const button = h("button", { class: "primary", type: "submit" }, action);
  const rows = fields.map(field);
  const form = h("form", { "aria-label": title }, h(heading, { tabindex: "-1" }, title), failure, ...rows.map((row) => row.element), button);
  form.append(h("p", { class: "aside" }, ...aside));
  const send = async () => {
    failure.hidden = true;
    rows.forEach((row) => row.fault(""));
    try {
      await submit(Object.fromEntries(new FormData(form)));
    } catch (error) {
      const unplaced = placeFaults(error, rows);
      setText(failure, unplaced);
      failure.hidden = !unplaced;
    }
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    disabledDuring(button, send);
  });
  return form;
}

/** Puts each fault beside its field. @returns {string} what is left to say above them */
function placeFaults(error, rows) {
  const taken = { username_taken: "username", email_taken: "email" }[error.code];
  const faults = taken ? [{ pointer: `/${taken}`, detail: explain(error) }] : (error.errors ?? []);
  let placed = 0;
  for (const { pointer, detail } of faults) {
    const row = rows.find(({ name }) => pointer === `/${name}`);
    if (!row) continue;
    row.fault(sentence(detail));
    if (placed === 0) row.input.focus();
    placed += 1;
  }
  return placed > 0 && placed === faults.length ? "" : explain(error);
}

function field({ name, label, hint, ...attributes }) {
  const note = h("span", { class: "note", id: `${name}-note` }, hint ?? "");
  const input = h("input", { id: name, name, required: true, "aria-describedby": note.id, ...attributes });
  const fault = (text) => {
    setText(note, text || hint || "");
    note.classList.toggle("fault", Boolean(text));
    input.setAttribute("aria-invalid", text ? "true" : "false");
  };
  return { name, input, fault, element: h("div", { class: "field" }, h("label", { for: name }, label), input, note) };
}
