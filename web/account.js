/**
 * One's own account, and the pages that links in mails lead to.
 */
import { explain } from "./api.js";
import { entitle, h } from "./dom.js";
import { avatar } from "./files.js";
import { forgetAll } from "./place.js";
import { entryForm } from "./signin.js";

const NEW_PASSWORD = {
  name: "new_password",
  label: "New password",
  type: "password",
  autocomplete: "new-password",
  minlength: 8,
  maxlength: 256,
  hint: "At least 8 characters.",
};

/** Asks for a mail to set a new password. @param {{api: import("./api.js").Api}} options */
export function forgotPage({ api }) {
  const card = h("div", { class: "entry card" });
  const form = entryForm({
    title: "Forgot your password?",
    action: "Send a link",
    fields: [{ name: "email", label: "E-mail", type: "email", autocomplete: "email" }],
    submit: async ({ email }) => {
      await api.forgotPassword(email);
      say(card, "Look into your mail", `If there is an account with ${email}, a link to set a new password is on its way.`);
    },
    aside: [h("a", { class: "link", href: "#/signin" }, "Back to signing in")],
  });
  card.append(form);
  return framed(card);
}

/** Sets a new password with the token of a mail. @param {{api: import("./api.js").Api, token: string}} options */
export function resetPage({ api, token }) {
  const card = h("div", { class: "entry card" });
  card.append(
    entryForm({
      title: "Set a new password",
      action: "Set password",
      fields: [NEW_PASSWORD],
      submit: async ({ new_password }) => {
        await api.resetPassword(token, new_password);
        say(card, "Your password is set", "You are signed out everywhere. Sign in with the new one.", signInLink());
      },
      aside: [h("a", { class: "link", href: "#/forgot" }, "Ask for another link")],
    }),
  );
  return framed(card);
}

/** Proves an address with the token of a mail. @param {{api: import("./api.js").Api, token: string}} options */
export async function verifyPage({ api, token }) {
  const card = h("div", { class: "entry card" });
  try {
    await api.verifyEmail(token);
    say(card, "Thank you", "Your e-mail address is confirmed.", h("a", { class: "plain", href: "#/" }, "All courses"));
  } catch (error) {
    const account = h("a", { class: "plain", href: "#/account" }, "Ask for another link");
    say(card, "That did not work", explain(error), account);
  }
  return framed(card);
}

/** Has no more mails of the kind that brought this link. @param {{api: import("./api.js").Api, token: string}} options */
export async function unsubscribePage({ api, token }) {
  const card = h("div", { class: "entry card" });
  const go = async () => {
    try {
      await api.unsubscribe(token);
      say(card, "No more of these mails", "You can have them again on your account’s page.", signInLink());
    } catch (error) {
      say(card, "That did not work", explain(error), signInLink());
    }
  };
  // Whoever looks at a mail's links for harm opens them, too: so it takes a press.
  const button = h("button", { type: "button", class: "primary", onclick: go }, "No more of these mails");
  say(card, "Mails about the forums", "You get one a day at most about what you have not read.", button);
  return framed(card);
}

/** The account: what it is, another password, taking everything along, leaving. @param {{api: import("./api.js").Api}} options */
export async function accountPage({ api }) {
  const user = await api.me();
  const card = h("div", { class: "entry account card" });
  const told = h("p", { role: "status" });
  const telling = (work) => async () => {
    try {
      told.textContent = await work();
    } catch (error) {
      told.textContent = explain(error);
    }
  };
  const resend = telling(async () => {
    await api.resendVerification();
    return "A mail is on its way.";
  });
  const digest = h("input", { type: "checkbox", checked: await api.digest().catch(() => false) });
  digest.addEventListener("change", async () => {
    const { checked } = digest;
    await telling(async () => {
      digest.checked = (await api.setDigest(checked).catch((error) => {
        digest.checked = !checked;
        throw error;
      })).enabled;
      return checked ? "You get a mail when there is something new, once a day at most." : "You get no such mails any more.";
    })();
  });
  const takeAlong = telling(async () => {
    download("lectern.json", await api.exportMe());
    return "Everything that is kept about you is in the file lectern.json.";
  });
  const form = entryForm({
    title: "Change your password",
    heading: "h2",
    action: "Change password",
    fields: [
      { name: "current_password", label: "Current password", type: "password", autocomplete: "current-password" },
      NEW_PASSWORD,
    ],
    submit: async ({ current_password, new_password }) => {
      await api.changePassword(current_password, new_password);
      form.reset();
      told.textContent = "Your password is changed. You are signed out on all other devices.";
    },
    aside: [],
  });
  card.append(
    h("h1", { tabindex: "-1" }, "Your account"),
    h("p", null, h("strong", null, user.username), ` · ${user.email}`),
    avatar({ api, user }),
    user.email_verified
      ? ""
      : h("p", null, "This address is not confirmed. ", h("button", { type: "button", class: "link", onclick: resend }, "Send the mail again")),
    told,
    form,
    h("h2", null, "Mails"),
    h("label", null, digest, " Once a day, what I have not read in the forums of my courses"),
    h("h2", null, "Your data"),
    h("p", null, "All that is kept about you, as one JSON file. ", h("button", { type: "button", class: "link", onclick: takeAlong }, "Download my data")),
    h("p", null, h("button", { type: "button", class: "link", onclick: () => farewell(api, card) }, "Delete this account")),
  );
  return framed(card);
}

function farewell(api, card) {
  const form = entryForm({
    title: "Delete this account",
    action: "Delete for good",
    fields: [
      {
        name: "current_password",
        label: "Your password",
        type: "password",
        autocomplete: "current-password",
        hint: "Your name, address, progress and sessions are erased. This cannot be taken back.",
      },
    ],
    submit: async ({ current_password }) => {
      await api.erase(current_password);
      forgetAll();
      say(card, "Your account is gone", "Nothing here says any more who you were.", h("a", { class: "plain", href: "#/" }, "All courses"));
    },
    aside: [h("a", { class: "link", href: "#/" }, "Stay, and go back to the courses")],
  });
  card.replaceChildren(form);
  entitle("Delete this account");
  form.querySelector("input").focus();
}

function download(filename, value) {
  const address = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }));
  h("a", { href: address, download: filename }).click();
  URL.revokeObjectURL(address);
}

function say(card, title, text, link = "") {
  const heading = h("h1", { tabindex: "-1" }, title);
  card.replaceChildren(heading, h("p", { role: "status" }, text), h("p", { class: "actions" }, link));
  if (!card.isConnected) return; // it may never be shown
  entitle(title);
  heading.focus({ preventScroll: true });
}

function signInLink() {
  return h("a", { class: "plain", href: "#/signin" }, "Sign in");
}

function framed(card) {
  return h("div", { class: "page narrow" }, card);
}
