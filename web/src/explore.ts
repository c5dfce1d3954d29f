// The page for exploring: what the form and the address say is drawn; what is zoomed, moved and chosen is put into the
// address. The server says what a view means: after each choice the page is asked again, and its part is put in place.

import type { Span } from "./chart";
import { showLatest } from "./latest";
import { type Reading, follow } from "./live";
import { HistoryChart, type View } from "./plot";
import { text } from "./texts";
import { localText } from "./zones";

const SETTLED_MS = 700;
const MOST_NAMED = 8;

let chart: HistoryChart | null = null;
let view: View;
let home = "";
let asking = new AbortController();
let settling: number | undefined;

const stream = element("stream");
const finder = element<HTMLFormElement>("finder");

document.documentElement.classList.add("scripted");
start();
follow(stream);
stream.addEventListener("reading", (event) => arrived((event as CustomEvent<Reading>).detail));
window.addEventListener("popstate", () => void show(location.href));
document.addEventListener("change", (event) => changed(event.target as HTMLElement));
document.addEventListener("submit", (event) => submitted(event));
document.addEventListener("click", (event) => clicked(event));

function element<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

/** Draw what the page says. */
function start(): void {
  chart?.leave();
  chart = null;
  home = location.search;
  view = JSON.parse(element("view").dataset.chart ?? "{}");
  const plot = element("plot");
  const ids = view.metrics.map((metric) => `metric=${metric.id}`).join("&");
  stream.dataset.stream = isLive() && ids ? `/api/v1/stream?${ids}` : "";
  if (!plot) return;
  plot.hidden = false;
  element("tools").hidden = false;
  const named = view.metrics.slice(0, MOST_NAMED).map((metric) => metric.label).join(", ");
  chart = new HistoryChart(plot, view, text("Chart: %(what)s", { what: named }), { moved });
  void chart.load().then(() => linkExports());
}

function isLive(): boolean {
  return element<HTMLInputElement>("live")?.checked ?? false;
}

// ── another view ──

function changed(target: HTMLElement): void {
  const input = target as HTMLInputElement;
  if (input.form?.id !== "view-form") return;
  if (input.id === "start" || input.id === "end") element<HTMLSelectElement>("window").value = "custom";
  if (input.id === "live") return toggleLive();
  if (input.closest("#found")) takeOut(input);
  void show(address(input.form), { push: true });
}

function toggleLive(): void {
  const url = new URL(location.href);
  if (isLive()) url.searchParams.set("live", "on");
  else url.searchParams.delete("live");
  history.replaceState(null, "", url);
  start();
}

/** A metric that was chosen is in another list from now on; the focus goes to the next. */
function takeOut(input: HTMLInputElement): void {
  const item = input.closest("li");
  const next = item?.nextElementSibling ?? item?.previousElementSibling;
  window.setTimeout(() => {
    item?.remove();
    (next?.querySelector("input") ?? element("q")).focus();
  });
}

function submitted(event: SubmitEvent): void {
  const form = event.target as HTMLFormElement;
  if (form.id !== "view-form") return;
  event.preventDefault();
  void show(address(form), { push: true });
}

/** Where a form leads to; times only where the window is one's own. */
function address(form: HTMLFormElement): string {
  const said = new URLSearchParams();
  const isCustom = element<HTMLSelectElement>("window").value === "custom";
  for (const [name, value] of new FormData(form)) {
    const isDefault = value === "" || (name === "window" && value === "24h") || (name === "resolution" && value === "auto");
    const isTime = name === "start" || name === "end";
    if (!isDefault && (isCustom || !isTime)) said.append(name, String(value));
  }
  return `/explore?${said}`;
}

function clicked(event: MouseEvent): void {
  const target = event.target as HTMLElement;
  const isPlain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey;
  const remove = target.closest<HTMLAnchorElement>("a.remove");
  const move = target.closest<HTMLElement>("[data-move]")?.dataset.move;
  if (remove && isPlain) {
    event.preventDefault();
    void show(remove.href, { push: true }).then(() => (element("chosen") ?? element("q")).querySelector("a")?.focus());
  } else if (move && chart) {
    moveBy(chart, move);
  } else if (target.id === "png") void savePicture();
}

function moveBy(chart: HistoryChart, move: string): void {
  if (move === "earlier") chart.chart.pan(-0.5);
  else if (move === "later") chart.chart.pan(0.5);
  else if (move === "in") chart.chart.zoom(0.5);
  else if (move === "out") chart.chart.zoom(2);
  else chart.home();
}

/** Have the server say what a view is, and put that in place of the one that is here. */
async function show(url: string, { push = false } = {}): Promise<void> {
  asking.abort();
  asking = new AbortController();
  window.clearTimeout(settling);
  const focused = document.activeElement?.id;
  try {
    const page = await pageAt(url, asking.signal);
    const part = page?.getElementById("view");
    if (!part) return location.assign(url);
    if (push) history.pushState(null, "", url);
    document.title = page?.title ?? document.title;
    element("view").replaceWith(document.adoptNode(part));
    hideTable();
    for (const old of finder.querySelectorAll("input[type=hidden]")) old.remove();
    for (const [name, value] of new URL(url, location.href).searchParams) hidden(name, value);
    start();
    if (focused) element(focused)?.focus();
    if (!new URL(url, location.href).searchParams.has("metric")) finder.requestSubmit();
  } catch (error) {
    if (!(error instanceof DOMException && error.name === "AbortError")) location.assign(url);
  }
}

async function pageAt(url: string, signal: AbortSignal): Promise<Document | null> {
  const response = await fetch(url, { signal, headers: { Accept: "text/html" } });
  const isHere = new URL(response.url).pathname === "/explore"; // and not where one signs in
  return isHere ? new DOMParser().parseFromString(await response.text(), "text/html") : null;
}

function hidden(name: string, value: string): void {
  if (["q", "site", "kind", "quantity"].includes(name)) return;
  const input = document.createElement("input");
  Object.assign(input, { type: "hidden", name, value });
  finder.prepend(input);
}

function hideTable(): void {
  element("values")?.removeAttribute("open");
}

// ── another window of the same view ──

function moved(span: Span | null): void {
  const url = new URL(location.href);
  if (span === null) url.search = home;
  else {
    url.searchParams.set("window", "custom");
    url.searchParams.set("start", new Date(span.start).toISOString());
    url.searchParams.set("end", new Date(span.end).toISOString());
  }
  history.replaceState(null, "", url);
  const shown = span ?? view;
  const chosen = url.searchParams.get("window") ?? "24h";
  element<HTMLSelectElement>("window").value = chosen;
  element<HTMLInputElement>("start").value = localText(shown.start, view.zone);
  element<HTMLInputElement>("end").value = localText(shown.end, view.zone);
  linkExports();
  window.clearTimeout(settling);
  settling = window.setTimeout(() => void refreshRest(), SETTLED_MS);
}

function linkExports(): void {
  for (const link of document.querySelectorAll<HTMLAnchorElement>("[data-export]")) {
    if (chart) link.href = chart.exportAddress(link.dataset.export ?? "csv");
  }
}

/** What stands beside the chart: the table, the summary, and the view that would be saved. */
async function refreshRest(): Promise<void> {
  asking.abort();
  asking = new AbortController();
  try {
    const page = await pageAt(location.href, asking.signal);
    for (const selector of ["#plot-summary", "#values > summary", "#values > .scroll"]) {
      const [old, fresh] = [document.querySelector(selector), page?.querySelector(selector)];
      if (old && fresh) old.replaceWith(document.adoptNode(fresh));
    }
    const kept = page?.querySelector<HTMLInputElement>("input[name=view]")?.value;
    for (const input of document.querySelectorAll<HTMLInputElement>("input[name=view]")) input.value = kept ?? input.value;
  } catch {
    return; // the chart says what is wrong, if anything is
  }
}

// ── readings, pictures ──

function arrived(reading: Reading): void {
  chart?.arrived(reading);
  showLatest(reading);
}

async function savePicture(): Promise<void> {
  if (!chart) return;
  const summary = element("plot-summary").textContent?.trim() ?? "";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await chart.chart.picture(summary));
  link.download = "kilowatch.png";
  link.click();
  URL.revokeObjectURL(link.href);
}
