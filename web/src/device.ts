// A device's page: values go on with what arrives, and the last day of its metrics is drawn once it comes into sight.

import { showLatest } from "./latest";
import { type Reading, follow } from "./live";
import { HistoryChart, type View } from "./plot";

const UNITS_AT_FIRST = 2;

const metrics = document.getElementById("metrics");
const section = document.getElementById("device-chart");
const plot = document.getElementById("plot");
let chart: HistoryChart | null = null;

if (section && plot) {
  plot.hidden = false;
  new IntersectionObserver((seen, observer) => {
    if (!seen.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    draw(section, plot);
  }).observe(section);
}
if (metrics) {
  metrics.addEventListener("reading", (event) => {
    const reading = (event as CustomEvent<Reading>).detail;
    showLatest(reading);
    chart?.arrived(reading);
  });
  follow(metrics);
}

function draw(section: HTMLElement, plot: HTMLElement): void {
  const view: View = JSON.parse(section.dataset.chart ?? "{}");
  chart = new HistoryChart(plot, view, section.querySelector("h2")?.textContent ?? "", { unitsAtFirst: UNITS_AT_FIRST });
  void chart.load();
}
