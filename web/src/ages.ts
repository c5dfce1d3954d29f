// Keeps the ages of readings true while a page is open: `<time datetime="…" data-age>` says how long ago that was.

import { text } from "./texts";

const EVERY_MS = 1000;

export function startAges(): void {
  setInterval(tick, EVERY_MS);
}

function tick(): void {
  if (document.hidden) return;
  const now = Date.now();
  for (const element of document.querySelectorAll<HTMLTimeElement>("time[data-age]")) {
    const told = age((now - Date.parse(element.dateTime)) / 1000);
    if (element.textContent !== told) element.textContent = told;
  }
}

/** How long ago: in the largest unit of which there are two, as the pages spell it (`Language.age`). */
export function age(seconds: number): string {
  const gone = Math.max(0, Math.floor(seconds));
  if (gone < 120) return text("%(num)d s ago", { num: gone });
  if (gone < 7200) return text("%(num)d min ago", { num: Math.floor(gone / 60) });
  if (gone < 172_800) return text("%(num)d h ago", { num: Math.floor(gone / 3600) });
  return text("%(num)d days ago", { num: Math.floor(gone / 86_400) });
}
