// Lines over time, with an axis for each unit. A value is drawn until the next one, and nothing where there is none: that
// is what buckets and readings mean. Seen, zoomed and moved with a mouse, with fingers and with keys; below it a list
// that says what each line is, and its value where the cursor is.

import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

import type { Column } from "./history";
import { number } from "./numbers";
import { text } from "./texts";
import { moment, timeLabels } from "./zones";

export interface Line {
  label: string;
  unit: string;
}

export interface Drawing {
  lines: Line[];
  /** s since 1970, and for each line its values then; null is a gap, undefined: not looked at then. */
  times: number[];
  columns: Column[];
  /** Until when the last value is shown, in s. */
  until: number;
}

export interface Span {
  /** ms since 1970. */
  start: number;
  end: number;
}

export interface Options {
  /** What the chart is called by assistive technology. */
  label: string;
  describedBy?: string;
  zone: string;
  /** The window was moved or zoomed by whoever looks at it. */
  moved?: (span: Span) => void;
  /** The window is to be as it was at first. */
  home?: () => void;
}

const COLOURS = 8;
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
const SHORTEST_MS = 1000;
const LATEST_MS = Date.UTC(2200, 0, 1);
const ROOM_FOR_AN_AXIS = 140; // so a phone has two

/** Draws into an element, which is its own. */
export function lineChart(element: HTMLElement, drawing: Drawing, span: Span, options: Options): LineChart {
  const chart = new LineChart(element, options);
  chart.show(drawing, span);
  return chart;
}

export class LineChart {
  private plot: uPlot | null = null;
  private drawing: Drawing = { lines: [], times: [], columns: [], until: 0 };
  private span: Span = { start: 0, end: 1 };
  private readonly hidden = new Set<number>();
  private readonly frame = document.createElement("div");
  private readonly legend = document.createElement("ul");
  private readonly at = document.createElement("p");
  private readonly spoken = document.createElement("p");
  private values: HTMLElement[] = [];
  private readonly fingers = new Map<number, number>();
  private readonly leaving = new AbortController();

  constructor(
    private readonly element: HTMLElement,
    private readonly options: Options,
  ) {
    this.frame.className = "frame";
    this.frame.tabIndex = 0;
    this.frame.setAttribute("role", "application");
    this.frame.setAttribute("aria-label", `${options.label}. ${text("Arrows move, + and - zoom, Home shows the whole window, Shift with arrows reads values.")}`);
    if (options.describedBy) this.frame.setAttribute("aria-describedby", options.describedBy);
    this.legend.className = "legend";
    this.at.className = "at";
    this.spoken.className = "hidden";
    this.spoken.setAttribute("aria-live", "polite");
    element.replaceChildren(this.frame, this.at, this.legend, this.spoken);
    const { signal } = this.leaving;
    this.frame.addEventListener("keydown", (event) => this.pressed(event), { signal });
    new ResizeObserver(() => this.resized()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.build(), { signal });
  }

  /** CSS pixels that the lines have from left to right. */
  get pixels(): number {
    return Math.round(this.plot ? this.plot.bbox.width / devicePixelRatio : this.element.clientWidth - 60);
  }

  show(drawing: Drawing, span: Span): void {
    const isOther = JSON.stringify(drawing.lines) !== JSON.stringify(this.drawing.lines);
    this.drawing = drawing;
    this.span = span;
    if (isOther || !this.plot) this.build();
    else {
      this.plot.setData(this.data(), false);
      this.plot.setScale("x", this.seconds());
    }
    this.tell();
  }

  /** Leave a line out until whoever looks asks for it. */
  hide(place: number): void {
    this.hidden.add(place);
  }

  /** Show another window of what is drawn; more of it may come with `show`. */
  look(span: Span): void {
    this.span = span;
    this.plot?.setScale("x", this.seconds());
  }

  leave(): void {
    this.leaving.abort();
    this.plot?.destroy();
    this.plot = null;
  }

  /** By a share of the window; negative: to earlier times. */
  pan(share: number): void {
    const by = (this.span.end - this.span.start) * share;
    this.go(this.span.start + by, this.span.end + by);
  }

  /** Below 1 nearer; `at` stays where it is, a share of the width. */
  zoom(factor: number, at = 0.5): void {
    const length = this.span.end - this.span.start;
    const pivot = this.span.start + length * at;
    this.go(pivot - length * factor * at, pivot + length * factor * (1 - at));
  }

  private go(start: number, end: number): void {
    const length = Math.min(Math.max(end - start, SHORTEST_MS), LATEST_MS);
    const begin = Math.min(Math.max(Math.round(start), 0), LATEST_MS - length);
    const span = { start: begin, end: Math.round(begin + length) };
    if (span.start === this.span.start && span.end === this.span.end) return;
    this.look(span);
    this.options.moved?.(span);
  }

  // ── drawing ──

  private data(): uPlot.AlignedData {
    return [this.drawing.times, ...this.drawing.columns];
  }

  private seconds(): { min: number; max: number } {
    return { min: this.span.start / 1000, max: this.span.end / 1000 };
  }

  private build(): void {
    this.plot?.destroy();
    this.listLines();
    const { lines } = this.drawing;
    const style = getComputedStyle(this.element);
    const font = `${Math.round(0.78 * parseFloat(style.fontSize))}px ${style.fontFamily}`; // uPlot reads whole pixels only
    const faint = this.colour("--faint");
    const grid = { stroke: this.colour("--line"), width: 1 };
    const units = [...new Set(lines.filter((_, place) => !this.hidden.has(place)).map((line) => line.unit))];
    const scales = [...new Set(lines.map((line) => line.unit))];
    const most = Math.max(1, Math.floor(this.element.clientWidth / ROOM_FOR_AN_AXIS));
    const keys = this.legend.querySelectorAll<HTMLElement>(".key");
    const shared = { stroke: faint, font, ticks: grid };
    this.plot = new uPlot(
      {
        ...this.size(),
        tzDate: (time) => uPlot.tzDate(new Date(time * 1000), this.options.zone),
        scales: {
          x: { time: true, auto: false, ...this.seconds() },
          ...Object.fromEntries(scales.map((unit) => [`unit ${unit}`, { auto: true }])),
        },
        series: [
          {},
          ...lines.map((line, place): uPlot.Series => ({
            label: line.label,
            scale: `unit ${line.unit}`,
            stroke: keys[place] ? getComputedStyle(keys[place]).color : faint,
            width: 1.5,
            dash: DASHES[Math.floor(place / COLOURS) % DASHES.length] ?? [],
            show: !this.hidden.has(place),
            paths: held(() => this.drawing.until),
            points: { show: false },
          })),
        ],
        axes: [
          {
            ...shared,
            grid,
            space: 70,
            values: (_plot, places, _axis, _space, step) => timeLabels(places, step, this.options.zone),
          },
          ...units.slice(0, most).map((unit, place): uPlot.Axis => ({
            ...shared,
            scale: `unit ${unit}`,
            side: place % 2 ? 1 : 3,
            grid: { ...grid, show: place === 0 },
            label: unit === "dimensionless" ? "" : unit,
            labelFont: font,
            labelSize: unit === "dimensionless" ? 0 : 18,
            size: (_plot, told) => 22 + 7.5 * Math.max(3, ...(told ?? []).map((one) => one.length)),
            values: (_plot, places) => places.map(onAxis),
          })),
        ],
        legend: { show: false },
        padding: [8, units.length > 1 && most > 1 ? 0 : 16, 0, 0],
        cursor: {
          y: false,
          drag: { x: true, y: false, setScale: false },
          points: { size: 7 },
          dataIdx: (plot, place, hovered, time) => this.heldAt(plot, place, hovered, time),
          bind: {
            mousedown: (_plot, _target, handle) => (event) => {
              if (event.shiftKey && event.button === 0) this.drag(event);
              else handle(event);
              return null;
            },
            dblclick: () => () => {
              this.options.home?.();
              return null;
            },
          },
        },
        hooks: {
          setSelect: [(plot) => this.selected(plot)],
          setCursor: [() => this.tell()],
        },
      },
      this.data(),
      this.frame,
    );
    this.tell();
    this.plot.over.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
    for (const kind of ["pointerdown", "pointermove", "pointerup", "pointercancel"] as const) {
      this.plot.over.addEventListener(kind, (event) => this.touched(event));
    }
  }

  private size(): { width: number; height: number } {
    const width = Math.max(200, this.element.clientWidth);
    return { width, height: Math.round(Math.min(Math.max(width * 0.42, 240), window.innerHeight * 0.6, 900)) };
  }

  private resized(): void {
    if (!this.plot || !this.element.clientWidth) return;
    const size = this.size();
    if (size.width !== this.plot.width) this.plot.setSize(size);
  }

  private colour(name: string): string {
    this.at.style.color = `var(${name})`;
    const { color } = getComputedStyle(this.at);
    this.at.style.color = "";
    return color;
  }

  // ── the list below ──

  private listLines(): void {
    this.values = [];
    this.legend.replaceChildren(
      ...this.drawing.lines.map((line, place) => {
        const item = document.createElement("li");
        const button = document.createElement("button");
        const key = document.createElement("span");
        const value = document.createElement("data");
        button.type = "button";
        button.className = "quiet";
        button.setAttribute("aria-pressed", String(!this.hidden.has(place)));
        key.className = `key series-${place % COLOURS} dash-${Math.floor(place / COLOURS) % DASHES.length}`;
        button.append(key, line.label);
        button.addEventListener("click", () => this.toggle(place));
        value.className = "figure";
        this.values.push(value);
        item.append(button, value);
        return item;
      }),
    );
  }

  private toggle(place: number): void {
    const show = this.hidden.delete(place);
    if (!show) this.hidden.add(place);
    this.build();
    this.legend.querySelectorAll<HTMLElement>("button")[place]?.focus();
  }

  /** The values at the cursor, or else the last ones. */
  private tell(): void {
    const { times, columns, lines } = this.drawing;
    const cursor = this.plot?.cursor;
    const isThere = cursor !== undefined && cursor.idx != null && (cursor.left ?? -1) >= 0;
    let last = -1;
    lines.forEach((line, place) => {
      const column = columns[place] ?? [];
      const index = isThere ? (cursor.idxs?.[place + 1] ?? null) : lastKnown(column);
      const value = index === null ? null : column[index];
      if (index !== null) last = Math.max(last, index);
      const element = this.values[place];
      if (!element) return;
      const unit = line.unit === "dimensionless" ? "" : ` ${line.unit}`;
      element.textContent = value == null ? "–" : number(value) + unit;
    });
    const time = isThere && this.plot ? times[cursor.idx ?? 0] : times[last];
    this.at.textContent = time === undefined ? "" : moment(time * 1000, this.options.zone);
  }

  private heldAt(plot: uPlot, place: number, hovered: number, time: number): number {
    const { times } = this.drawing;
    let index = hovered;
    if (index > 0 && (times[index] ?? 0) > time) index -= 1;
    if (place === 0) return index;
    const column = plot.data[place];
    while (index > 0 && column?.[index] === undefined) index -= 1;
    return index;
  }

  // ── whoever looks at it ──

  private selected(plot: uPlot): void {
    const { left, width } = plot.select;
    if (width < 4) return;
    const [start, end] = [left, left + width].map((place) => plot.posToVal(place, "x") * 1000);
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.go(start ?? 0, end ?? 0);
  }

  private pressed(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step !== undefined && event.shiftKey) this.read(step);
    else if (step !== undefined) this.pan(step / 4);
    else if (event.key === "+" || event.key === "=") this.zoom(0.5);
    else if (event.key === "-" || event.key === "_") this.zoom(2);
    else if (event.key === "Home") this.options.home?.();
    else if (event.key === "Escape") this.plot?.setCursor({ left: -10, top: -10 });
    else return;
    event.preventDefault();
  }

  /** Move the cursor by a place that is seen, and say what is there. */
  private read(step: number): void {
    const { plot } = this;
    const { times } = this.drawing;
    if (!plot || !times.length) return;
    const { min, max } = this.seconds();
    const isThere = plot.cursor.idx != null && (plot.cursor.left ?? -1) >= 0;
    const from = isThere ? (plot.cursor.idx ?? 0) + step : step > 0 ? plot.valToIdx(min) : plot.valToIdx(max);
    const index = Math.min(Math.max(from, 0), times.length - 1);
    const time = times[index] ?? 0;
    if (time < min || time > max) return;
    plot.setCursor({ left: plot.valToPos(time, "x") + 0.5, top: 10 });
    const told = this.drawing.lines.map((line, place) => `${line.label} ${this.values[place]?.textContent ?? ""}`);
    this.spoken.textContent = [this.at.textContent, ...told].join(", ");
  }

  /** With the control key, or while the chart has the focus: otherwise a wheel moves the page. */
  private wheeled(event: WheelEvent): void {
    const isMeant = event.ctrlKey || event.metaKey || document.activeElement === this.frame;
    if (!isMeant || !this.plot) return;
    event.preventDefault();
    const rect = this.plot.over.getBoundingClientRect();
    const sideways = event.shiftKey ? event.deltaY : event.deltaX;
    if (Math.abs(sideways) > Math.abs(event.deltaY) || event.shiftKey) this.pan(Math.sign(sideways) * 0.1);
    else this.zoom(event.deltaY > 0 ? 1.25 : 0.8, (event.clientX - rect.left) / rect.width);
  }

  private drag(event: MouseEvent): void {
    event.preventDefault();
    let x = event.clientX;
    const width = this.plot?.over.clientWidth || 1;
    const end = new AbortController();
    const moved = (next: MouseEvent) => {
      this.pan((x - next.clientX) / width);
      x = next.clientX;
    };
    document.addEventListener("mousemove", moved, { signal: end.signal });
    document.addEventListener("mouseup", () => end.abort(), { signal: end.signal });
  }

  /** One finger moves the window, two zoom it; up and down the page goes on to scroll. */
  private touched(event: PointerEvent): void {
    if (event.pointerType !== "touch") return;
    const rect = this.plot?.over.getBoundingClientRect();
    if (!rect) return;
    const before = [...this.fingers.values()];
    if (event.type === "pointerup" || event.type === "pointercancel") {
      this.fingers.delete(event.pointerId);
      return;
    }
    if (event.type === "pointermove" && !this.fingers.has(event.pointerId)) return;
    this.fingers.set(event.pointerId, event.clientX);
    const now = [...this.fingers.values()];
    if (event.type !== "pointermove" || before.length !== now.length) return;
    if (now.length === 1) this.pan(((before[0] ?? 0) - (now[0] ?? 0)) / rect.width);
    else {
      const apart = (places: number[]) => Math.max(20, Math.abs((places[0] ?? 0) - (places[1] ?? 0)));
      const middle = (places: number[]) => ((places[0] ?? 0) + (places[1] ?? 0)) / 2;
      this.zoom(apart(before) / apart(now), (middle(now) - rect.left) / rect.width);
      this.pan((middle(before) - middle(now)) / rect.width);
    }
  }

  // ── as a picture ──

  /** What is seen, with what the lines are, as a PNG. */
  async picture(title: string): Promise<Blob> {
    const { plot } = this;
    if (!plot) throw new Error("there is nothing to show yet");
    const source = plot.ctx.canvas;
    const ratio = source.width / plot.width;
    const row = 20 * ratio;
    const shown = this.drawing.lines.map((line, place) => ({ line, place })).filter(({ place }) => !this.hidden.has(place));
    const canvas = document.createElement("canvas");
    canvas.width = source.width;
    canvas.height = source.height + row * (shown.length + 2);
    const context = canvas.getContext("2d");
    if (!context) throw new Error("the browser draws no pictures");
    context.fillStyle = this.colour("--card");
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = this.colour("--ink");
    context.font = `${13 * ratio}px ${getComputedStyle(this.element).fontFamily}`;
    context.fillText(title, 10 * ratio, row);
    context.drawImage(source, 0, row * 1.5);
    const keys = this.legend.querySelectorAll<HTMLElement>(".key");
    shown.forEach(({ line, place }, index) => {
      const y = source.height + row * (index + 2);
      const key = keys[place];
      context.strokeStyle = key ? getComputedStyle(key).color : context.fillStyle;
      context.lineWidth = 2 * ratio;
      context.setLineDash((DASHES[Math.floor(place / COLOURS) % DASHES.length] ?? []).map((part) => part * ratio));
      context.beginPath();
      context.moveTo(10 * ratio, y - 4 * ratio);
      context.lineTo(40 * ratio, y - 4 * ratio);
      context.stroke();
      context.fillText(`${line.label}${line.unit === "dimensionless" ? "" : ` (${line.unit})`}`, 48 * ratio, y);
    });
    return new Promise((resolve, reject) =>
      canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the browser makes no picture"))), "image/png"),
    );
  }
}

/** Draws each value until the next one, and leaves gaps; of what falls on one pixel, the lowest and the highest. */
function held(until: () => number): uPlot.Series.PathBuilder {
  return (plot, place, first, last) => {
    const stroke = new Path2D();
    uPlot.orient(plot, place, (_series, times, values, scaleX, scaleY, toX, toY, left, top, width, height) => {
      const x = (time: number) => Math.round(toX(time, scaleX, width, left));
      const y = (value: number) => Math.round(toY(value, scaleY, height, top));
      let pen = Number.NaN; // where the line is, if it is anywhere
      let [low, high, level] = [0, 0, 0];
      const finish = () => {
        if (Number.isNaN(pen) || low === high) return;
        stroke.lineTo(pen, low);
        stroke.lineTo(pen, high);
        stroke.lineTo(pen, level);
      };
      for (let index = first; index <= last; index += 1) {
        const value = values[index];
        if (value === undefined) continue;
        const at = x(times[index] ?? 0);
        if (!Number.isNaN(pen) && at !== pen) {
          finish();
          stroke.lineTo(at, level);
          pen = at;
          low = high = level;
        }
        if (value === null) {
          finish();
          pen = Number.NaN;
          continue;
        }
        const next = y(value);
        if (Number.isNaN(pen)) {
          stroke.moveTo(at, next);
          pen = at;
          low = high = next;
        } else if (pen === at) {
          low = Math.min(low, next);
          high = Math.max(high, next);
        }
        level = next;
      }
      finish();
      if (!Number.isNaN(pen)) {
        const after = nextKnown(values, last);
        const end = x(after === null ? until() : (times[after] ?? until()));
        if (end > pen) stroke.lineTo(end, level);
      }
      return null;
    });
    return { stroke, fill: null, clip: null, flags: 0 };
  };
}

function nextKnown(values: ArrayLike<number | null | undefined>, from: number): number | null {
  for (let index = from + 1; index < values.length; index += 1) if (values[index] !== undefined) return index;
  return null;
}

function lastKnown(column: Column): number | null {
  for (let index = column.length - 1; index >= 0; index -= 1) if (column[index] != null) return index;
  return null;
}

function onAxis(value: number): string {
  const told = Math.abs(value) >= 1e6 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(1) : String(+value.toFixed(6));
  return told.replace("-", "\u2212");
}
