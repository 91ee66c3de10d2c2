import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { minify } from "terser";

const source = readFileSync("web/client.js", "utf8");
const { code } = await minify(source, { module: true });
mkdirSync("dist", { recursive: true });
writeFileSync("dist/client.js", `${code}\n`);
console.log(`dist/client.js: ${source.length} to ${code.length} bytes`);
