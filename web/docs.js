// The API's reader: Swagger UI where npm has brought it, else the plain list stays.

if (window.SwaggerUIBundle) {
  document.querySelector("#plain").hidden = true;
  // It has a dark scheme of its own, and takes it by this class alone.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  dark.addEventListener("change", follow);
  follow();
  window.SwaggerUIBundle({
    url: "/openapi.json",
    domNode: document.querySelector("#reader"),
    deepLinking: true,
    defaultModelsExpandDepth: 0,
    docExpansion: "list",
    filter: true,
    persistAuthorization: false,
    validatorUrl: null,
  });
}
