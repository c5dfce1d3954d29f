// Reads the values of a day's chart at a time: by a slider, which keys move too, or by pointing at the chart.

interface Day {
  times: string[];
  columns: (number | null)[][];
}

const figures = new Intl.NumberFormat(document.documentElement.lang || "en", {
  minimumFractionDigits: 2,
  maximumFractionDigits: 2,
});
const equipped = new WeakSet<Element>();

function equipAll(): void {
  for (const figure of document.querySelectorAll<HTMLElement>("[data-day]")) equip(figure);
}

function equip(figure: HTMLElement): void {
  const reader = figure.querySelector<HTMLElement>(".reader");
  const slider = figure.querySelector<HTMLInputElement>("input[type=range]");
  if (!reader || !slider) return;
  reader.hidden = false;
  show(figure, slider);
  if (equipped.has(slider)) return;
  equipped.add(slider);
  slider.addEventListener("input", () => show(figure, slider));
  for (const plot of figure.querySelectorAll<SVGSVGElement>(".plot")) {
    plot.addEventListener("pointermove", (event) => {
      const [left, right] = sides(plot);
      const place = plot.getBoundingClientRect();
      const x = ((event.clientX - place.left) / place.width) * plot.viewBox.baseVal.width;
      slider.value = String(Math.floor(((x - left) / (right - left)) * (Number(slider.max) + 1)));
      show(figure, slider);
    });
  }
}

function sides(plot: SVGSVGElement): [number, number] {
  return [Number(plot.dataset.left), Number(plot.dataset.right)];
}

function show(figure: HTMLElement, slider: HTMLInputElement): void {
  const day: Day = JSON.parse(figure.querySelector("script")?.textContent ?? "{}");
  const place = Number(slider.value);
  for (const plot of figure.querySelectorAll<SVGSVGElement>(".plot")) {
    const [left, right] = sides(plot);
    const cursor = plot.querySelector(".cursor");
    cursor?.setAttribute("transform", `translate(${left + ((right - left) * (place + 0.5)) / day.times.length} 0)`);
    cursor?.classList.add("on");
  }
  const time = day.times[place] ?? "";
  const output = figure.querySelector("output");
  if (output) output.textContent = time;
  const told = [...figure.querySelectorAll(".reader dl > div")].map((row, number) => {
    const kw = day.columns[number]?.[place] ?? null;
    const value = row.querySelector("dd");
    if (value) value.textContent = kw === null ? "–" : `${figures.format(kw)} kW`;
    return `${row.querySelector("dt")?.textContent}: ${value?.textContent}`;
  });
  slider.setAttribute("aria-valuetext", [time, ...told].join("; "));
}

equipAll();
document.addEventListener("htmx:after:swap", equipAll);
