// Times in the zone that is shown, which need not be the browser's.

import { language } from "./texts";

/** As a field for a date and a time holds it: 2026-01-05T09:30. */
export function localText(ms: number, zone: string): string {
  return numerals(zone).format(ms).replace(" ", "T").replace(/:00$/, "");
}

/** As the pages spell it (`moment` of pages/words.py): 2026-01-05 09:30:00 CET. */
export function moment(ms: number, zone: string): string {
  return `${numerals(zone).format(ms)} ${zoneName(ms, zone)}`;
}

function numerals(zone: string): Intl.DateTimeFormat {
  const [two, options] = ["2-digit", { timeZone: zone, year: "numeric" }] as const;
  return new Intl.DateTimeFormat("sv-SE", { ...options, month: two, day: two, hour: two, minute: two, second: two });
}

function zoneName(ms: number, zone: string): string {
  const parts = new Intl.DateTimeFormat("en-GB", { timeZone: zone, timeZoneName: "short" }).formatToParts(ms);
  return parts.find((part) => part.type === "timeZoneName")?.value ?? zone;
}

/** Labels of an axis: the time of each place, and its date where a day begins. `step` is the distance, in seconds. */
export function timeLabels(places: readonly number[], step: number, zone: string): string[] {
  const format = (options: Intl.DateTimeFormatOptions) =>
    new Intl.DateTimeFormat(language === "en" ? "en-GB" : language, { timeZone: zone, hourCycle: "h23", ...options });
  const time = format({ hour: "2-digit", minute: "2-digit", ...(step < 60 ? { second: "2-digit" } : {}) });
  const day = format({ day: "numeric", month: "short" });
  const month = format({ month: "short" });
  const year = format({ year: "numeric" });
  let before = "";
  let yearBefore = "";
  return places.map((place) => {
    const at = place * 1000;
    if (step >= 86_400 * 360) return year.format(at);
    const date = step >= 86_400 * 27 ? month.format(at) : day.format(at);
    const ofYear = year.format(at);
    const said = ofYear === yearBefore ? date : `${date} ${ofYear}`;
    const isNew = date !== before || ofYear !== yearBefore;
    const shown = step >= 86_400 ? (yearBefore === ofYear ? date : `${date}\n${ofYear}`)
      : isNew ? `${time.format(at)}\n${yearBefore && ofYear === yearBefore ? date : said}` : time.format(at);
    before = date;
    yearBefore = ofYear;
    return shown;
  });
}
