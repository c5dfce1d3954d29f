// What the API says of a window, as columns that a chart draws.

import uPlot from "uplot";

export interface Metric {
  id: number;
  label: string;
  /** How long a reading is believed, in seconds; null: until the next. */
  gap_s: number | null;
  /** Whether it is a counter. */
  sums?: boolean;
}

export interface Question {
  metrics: readonly Metric[];
  /** Times in ms since 1970. */
  start: number;
  end: number;
  resolution: string;
  aggregate: string;
  zone: string;
  points: number;
}

export type Column = (number | null | undefined)[];

/** Columns over common times (s since 1970). null is a gap; undefined: another metric was read then. */
export interface Answer {
  times: number[];
  columns: Column[];
  units: string[];
  resolution: string;
  /** Until when the last value is shown, in s since 1970. */
  until: number;
  /** Whether there are more readings than one page has. */
  isCut: boolean;
}

interface Series {
  metric_id: number;
  unit: string;
  timestamps: string[];
  values: (number | null)[];
}

interface Problem {
  detail?: string;
}

/** Says why there is no history, in words for whoever asked. */
export class Refused extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

export function historyAddress(question: Question, format?: string): string {
  const said = new URLSearchParams();
  for (const metric of question.metrics) said.append("metric", String(metric.id));
  said.set("start", new Date(question.start).toISOString());
  said.set("end", new Date(question.end).toISOString());
  said.set("resolution", question.resolution);
  said.set("timezone", question.zone);
  if (question.resolution === "auto") said.set("points", String(question.points));
  if (question.aggregate) said.set("aggregate", question.aggregate);
  if (format) said.set("format", format);
  if (format && question.resolution === "raw") said.set("limit", "all");
  return `/api/v1/history?${said}`;
}

export async function history(question: Question, signal: AbortSignal): Promise<Answer> {
  const response = await fetch(historyAddress(question), { signal, headers: { Accept: "application/json" } });
  if (!response.ok) {
    const problem: Problem = await response.json().catch(() => ({}));
    throw new Refused(problem.detail ?? response.statusText, response.status);
  }
  const told: { resolution: string; series: Series[]; next: string | null } = await response.json();
  const until = Math.min(question.end, Math.max(question.start, Date.now())) / 1000;
  const units = told.series.map((series) => series.unit);
  if (told.resolution !== "raw") {
    const times = (told.series[0]?.timestamps ?? []).map(seconds);
    const columns = told.series.map((series) => series.values);
    return { times, columns, units, resolution: told.resolution, until, isCut: false };
  }
  const tables = told.series.map((series, place) =>
    withGaps(series.timestamps.map(seconds), series.values, question.metrics[place]?.gap_s ?? null, until),
  );
  const [times = [], ...columns] = tables.length ? uPlot.join(tables as uPlot.AlignedData[]) : [[]];
  return { times: times as number[], columns: columns as Column[], units, resolution: "raw", until, isCut: told.next !== null };
}

/** Readings, with a null where one is not believed any more. */
function withGaps(times: number[], values: (number | null)[], gap: number | null, until: number): [number[], Column] {
  if (gap === null) return [times, values];
  const known: [number[], Column] = [[], []];
  times.forEach((time, place) => {
    known[0].push(time);
    known[1].push(values[place] ?? null);
    if ((times[place + 1] ?? until) - time > gap) {
      known[0].push(time + gap);
      known[1].push(null);
    }
  });
  return known;
}

function seconds(timestamp: string): number {
  return Date.parse(timestamp) / 1000;
}
