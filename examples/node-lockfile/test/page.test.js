import assert from "node:assert/strict";
import test from "node:test";
import { render } from "../src/page.js";

test("a page tells states and times", () => {
  assert.equal(render([{ name: "a", up: true, sinceMs: 60000 }]), "a: up for 1 minute\nall is well\n");
});

test("not all is well when one is down", () => {
  assert.equal(render([{ name: "a", up: false, sinceMs: 1000 }]), "a: DOWN for 1 second\n");
});
