import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { render } from "./page.js";

const checks = JSON.parse(readFileSync(new URL("../web/checks.json", import.meta.url)));
const script = readFileSync(new URL("../dist/client.js", import.meta.url));

export const server = createServer((request, response) => {
  if (request.url === "/client.js") {
    response.writeHead(200, { "content-type": "text/javascript" }).end(script);
  } else if (request.url === "/") {
    response.writeHead(200, { "content-type": "text/plain" }).end(render(checks));
  } else {
    response.writeHead(404).end();
  }
});

// `--once` asks itself for the page, prints it, and ends: a check without a second program.
server.listen(process.argv.includes("--once") ? 0 : 8080, async () => {
  if (process.argv.includes("--once")) {
    const { port } = server.address();
    process.stdout.write(await (await fetch(`http://127.0.0.1:${port}/`)).text());
    console.log(`client.js: ${(await fetch(`http://127.0.0.1:${port}/client.js`)).status}`);
    server.close();
    server.closeAllConnections();
  }
});
