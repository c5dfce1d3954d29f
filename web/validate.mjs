// Says what is wrong with documents: each line of the input is one, as JSON; each line of the output, a list of faults.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import { HtmlValidate } from "html-validate";

const config = JSON.parse(readFileSync(new URL("htmlvalidate.json", import.meta.url), "utf8"));
const validator = new HtmlValidate(config);

for await (const line of createInterface({ input: process.stdin })) {
  const { results } = await validator.validateString(JSON.parse(line));
  const faults = results.flatMap(({ messages }) =>
    messages.map(({ line, column, ruleId, message }) => `${line}:${column} ${message} (${ruleId})`),
  );
  process.stdout.write(JSON.stringify(faults) + "\n");
}
