// Latest values that go on with what arrives: `data-latest="7"` holds a metric's value and `data-unit` its unit,
// `data-age-of="7"` how long ago it was read, `data-time-of="7"` when that was, in the zone of `data-zone`.

import { age } from "./ages";
import type { Reading } from "./live";
import { number } from "./numbers";
import { moment } from "./zones";

export function showLatest(reading: Reading): void {
  const value = document.querySelector<HTMLElement>(`[data-latest="${reading.metric_id}"]`);
  const time = document.querySelector<HTMLElement>(`[data-age-of="${reading.metric_id}"]`);
  const before = Date.parse(time?.querySelector("time")?.dateTime ?? "1970-01-01");
  const read = Date.parse(reading.timestamp);
  if (!value || !time || read < before) return; // late data is not the latest
  const figure = document.createElement("data");
  const unit = document.createElement("span");
  const told = document.createElement("time");
  figure.value = String(reading.value);
  figure.textContent = number(reading.value);
  unit.className = "unit";
  unit.textContent = value.dataset.unit ?? "";
  value.replaceChildren(figure, " ", unit);
  told.dateTime = reading.timestamp;
  told.dataset.age = "";
  told.textContent = age((Date.now() - read) / 1000);
  time.replaceChildren(told);
  const when = document.querySelector<HTMLElement>(`[data-time-of="${reading.metric_id}"]`);
  if (when) when.textContent = moment(read, when.dataset.zone ?? "UTC");
}
