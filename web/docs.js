// The API's reader: Swagger UI where npm has brought it, else the plain list stays.

if (window.SwaggerUIBundle) {
  document.querySelector("#plain").hidden = true;
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
