import { readFileSync } from "node:fs";
import ms from "ms";
import Mustache from "mustache";

const template = readFileSync(new URL("../web/page.mustache", import.meta.url), "utf8");

/** The page about checks: `[{ name, up, sinceMs }]`. */
export function render(checks) {
  return Mustache.render(template, {
    checks: checks.map((check) => ({ ...check, state: check.up ? "up" : "DOWN", since: ms(check.sinceMs, { long: true }) })),
    allUp: checks.every((check) => check.up),
  });
}
