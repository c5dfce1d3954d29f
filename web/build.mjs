// Builds the pages' scripts into src/kilowatch/pages/built/: one file for each entry below, chunks that they share, the
// styles that their libraries bring, all with a hash of what is in them in their names; the land for maps; `manifest.json`, which says
// what an entry loads; and `licenses.txt`, the terms of the libraries that are in the files.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

import { land } from "./land.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "../src/kilowatch/pages/built");
const draft = `${target}.tmp`;
const entries = ["device", "explore", "page", "site"];

rmSync(draft, { recursive: true, force: true });
mkdirSync(draft, { recursive: true });

const { metafile } = await build({
  entryPoints: entries.map((name) => `./src/${name}.ts`),
  absWorkingDir: here,
  outdir: draft,
  bundle: true,
  splitting: true,
  format: "esm",
  target: "es2022",
  minify: true,
  legalComments: "none",
  entryNames: "[name].[hash]",
  chunkNames: "part.[hash]",
  metafile: true,
  logLevel: "warning",
});

const manifest = {};
for (const [path, output] of Object.entries(metafile.outputs)) {
  if (output.entryPoint) {
    manifest[basename(output.entryPoint, ".ts")] = {
      script: basename(path),
      parts: output.imports.map((part) => basename(part.path)).filter((name) => name.endsWith(".js")),
      style: output.cssBundle ? basename(output.cssBundle) : null,
    };
  }
}
const map = land(join(here, "node_modules/world-atlas/land-50m.json"));
const hash = createHash("sha256").update(map).digest("hex").slice(0, 16);
writeFileSync(join(draft, `land.${hash}.svg`), map);
writeFileSync(join(draft, "manifest.json"), JSON.stringify(manifest, null, 2) + "\n");
writeFileSync(join(draft, "licenses.txt"), licenses(metafile));
rmSync(target, { recursive: true, force: true });
renameSync(draft, target);
for (const [path, output] of Object.entries(metafile.outputs)) {
  console.log(`${relative(draft, join(here, path)).padEnd(28)} ${(output.bytes / 1024).toFixed(1).padStart(7)} KiB`);
}

function licenses({ inputs }) {
  const packages = new Set(["world-atlas"]); // whose data the land is made of
  for (const path of Object.keys(inputs)) {
    const found = path.match(/^node_modules\/((?:@[^/]+\/)?[^/]+)\//);
    if (found) packages.add(found[1]);
  }
  return [...packages].sort().map(terms).join("\n");
}

function terms(name) {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const text = ["LICENSE", "LICENSE.md", "LICENSE.txt"].map((file) => textOf(join(folder, file))).find((found) => found);
  if (!text) throw new Error(`${name} brings no text of its licence (${license})`);
  return `${name} ${version} (${license})\n\n${text.trim()}\n`;
}

function textOf(path) {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return null;
    throw error;
  }
}
