"use strict";
// Without a validator Swagger UI asks nobody but this server.
window.addEventListener("DOMContentLoaded", async () => {
  if (typeof SwaggerUIBundle !== "undefined") {
    SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", deepLinking: true, validatorUrl: null });
    return;
  }
  document.documentElement.style.colorScheme = "light dark";
  // The core has no Swagger UI: its paths, and where the whole document lies.
  const described = await (await fetch("/openapi.json")).json();
  const element = (name, text) => Object.assign(document.createElement(name), { textContent: text });
  const paths = document.createElement("ul");
  for (const [path, methods] of Object.entries(described.paths))
    for (const method of Object.keys(methods)) {
      const line = document.createElement("li");
      line.append(element("code", `${method.toUpperCase()} ${path}`));
      paths.append(line);
    }
  const more = document.createElement("p");
  more.append(Object.assign(element("a", "The OpenAPI document"), { href: "/openapi.json" }),
    " has every field and bound; a page to try them: ", element("code", 'pip install "pangu[platform]"'));
  document.querySelector("#docs").append(element("h1", described.info.title), paths, more);
});
