// A chart of metrics' history: it asks for what is to be seen, as finely as there are pixels, again when it is moved or
// zoomed, and for what is new when readings arrive.

import { type Span, LineChart } from "./chart";
import { type Answer, type Metric, type Question, Refused, history, historyAddress } from "./history";
import type { Reading } from "./live";
import { text } from "./texts";

/** What a page says is to be seen (`_chart` in pages/explore.py). */
export interface View extends Span {
  metrics: Metric[];
  /** Whether it ends now, and goes on with the time. */
  rolling: boolean;
  zone: string;
  resolution: string;
  aggregate: string;
}

export interface More {
  /** Is told of each window that is seen but the one that the page said; null for that one. */
  moved?: (span: Span | null) => void;
  /** Lines of more units than these, and of counters, are not shown until they are asked for. */
  unitsAtFirst?: number;
}

const SETTLED_MS = 250;
const TAIL_EVERY_MS = 2000;

export class HistoryChart {
  readonly chart: LineChart;
  private span: Span;
  private answer: Answer | null = null;
  private asking = new AbortController();
  private settling: number | undefined;
  private following = false;
  private drawn = false;
  private readonly problem = document.createElement("p");

  constructor(
    private readonly element: HTMLElement,
    private readonly view: View,
    label: string,
    private readonly more: More = {},
  ) {
    this.span = { start: view.start, end: view.end };
    this.chart = new LineChart(element, {
      label,
      zone: view.zone,
      moved: (span) => this.go(span),
      home: () => this.home(),
    });
    this.problem.className = "flash wrong";
    this.problem.setAttribute("role", "alert");
    this.problem.hidden = true;
    element.prepend(this.problem);
  }

  get isHome(): boolean {
    return this.span.start === this.view.start && this.span.end === this.view.end;
  }

  get question(): Question {
    const points = Math.min(Math.max(this.chart.pixels, 50), 4000);
    return { ...this.view, ...this.span, points };
  }

  exportAddress(format: string): string {
    return historyAddress(this.question, format);
  }

  home(): void {
    if (this.isHome) return;
    this.span = { start: this.view.start, end: this.view.end };
    this.chart.look(this.span);
    this.more.moved?.(null);
    this.settle();
  }

  /** Ask for all that is to be seen. */
  async load(): Promise<void> {
    this.asking.abort();
    this.asking = new AbortController();
    const { question } = this;
    this.element.setAttribute("aria-busy", "true");
    try {
      this.answer = await history(question, this.asking.signal);
      this.draw();
      this.say(this.answer.isCut ? text("There are more readings than are shown here; zoom in.") : "");
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") return;
      this.say(error instanceof Refused && error.status < 500 ? error.message : text("The values can't be loaded; try again."));
    }
    this.element.removeAttribute("aria-busy");
  }

  leave(): void {
    this.asking.abort();
    window.clearTimeout(this.settling);
    this.chart.leave();
  }

  /** A reading arrived: it is drawn where readings are, or else the last buckets are asked for again. */
  arrived(reading: Reading): void {
    const place = this.view.metrics.findIndex((metric) => metric.id === reading.metric_id);
    if (place >= 0 && !this.following) {
      this.following = true;
      window.setTimeout(() => void this.follow(), TAIL_EVERY_MS);
    }
  }

  private go(span: Span): void {
    this.span = span;
    this.more.moved?.(span);
    this.settle();
  }

  private settle(): void {
    window.clearTimeout(this.settling);
    this.settling = window.setTimeout(() => void this.load(), SETTLED_MS);
  }

  private draw(): void {
    const { answer } = this;
    if (!answer) return;
    const lines = this.view.metrics.map((metric, place) => ({ label: metric.label, unit: answer.units[place] ?? "" }));
    const { unitsAtFirst } = this.more;
    if (unitsAtFirst && !this.drawn) this.showFew(answer.units, unitsAtFirst);
    this.drawn = true;
    this.chart.show({ lines, ...answer }, this.span);
  }

  /** Those of the first units; counters only where there is nothing else. */
  private showFew(units: readonly string[], most: number): void {
    const { metrics } = this.view;
    const gauges = units.filter((_, place) => !metrics[place]?.sums);
    const few = new Set([...new Set(gauges.length ? gauges : units)].slice(0, most));
    units.forEach((unit, place) => {
      if (!few.has(unit) || (metrics[place]?.sums && gauges.length)) this.chart.hide(place);
    });
  }

  private async follow(): Promise<void> {
    this.following = false;
    if (this.view.rolling && this.isHome) this.roll();
    const { answer } = this;
    const from = answer?.times.at(-2);
    if (!answer || from === undefined || answer.isCut) return this.load();
    try {
      const tail = { ...this.question, start: from * 1000, resolution: answer.resolution };
      if (tail.end <= tail.start) return;
      this.answer = joined(answer, await history(tail, this.asking.signal), from, this.span.start / 1000);
      this.draw();
    } catch {
      await this.load(); // which says what is wrong
    }
  }

  /** On to now. */
  private roll(): void {
    const length = this.view.end - this.view.start;
    this.view.end = Math.ceil(Date.now() / 1000) * 1000;
    this.view.start = this.view.end - length;
    this.span = { start: this.view.start, end: this.view.end };
  }

  private say(message: string): void {
    this.problem.textContent = message;
    this.problem.hidden = message === "";
  }
}

/** What is known, with all from a time on (s since 1970) in its place; what is long past is let go. */
function joined(known: Answer, tail: Answer, from: number, since: number): Answer {
  const end = known.times.findIndex((time) => time >= from);
  const begin = Math.max(0, known.times.findIndex((time) => time >= since) - 1);
  const times = [...known.times.slice(begin, end), ...tail.times];
  const columns = known.columns.map((column, place) => [...column.slice(begin, end), ...(tail.columns[place] ?? [])]);
  return { ...known, times, columns, until: tail.until };
}
