// The world's land as one SVG, in degrees (x east, y south), from Natural Earth by way of `world-atlas`: small islands are
// left out, and coastlines have the points that a map of some hundred kilometres shows.

import { readFileSync } from "node:fs";

const TOLERANCE_DEG = 0.12;
const LEAST_AREA_DEG2 = 0.15;
const UNITS = 20; // a degree: coordinates are whole numbers of these

export function land(path) {
  const { objects, arcs, transform } = JSON.parse(readFileSync(path, "utf8"));
  const lines = arcs.map((arc) => absolute(arc, transform));
  const rings = objects.land.geometries.flatMap((geometry) => polygons(geometry).flat());
  const paths = rings
    .flatMap((ring) => unrolled(joined(ring, lines)))
    .filter((points) => Math.abs(area(points)) >= LEAST_AREA_DEG2)
    .map((points) => spelt(simplified(points)))
    .join("");
  const view = `${-180 * UNITS} ${-90 * UNITS} ${360 * UNITS} ${180 * UNITS}`;
  return (
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="${view}" preserveAspectRatio="none">` +
    `<path fill="#808a91" fill-opacity=".35" fill-rule="evenodd" d="${paths}"/></svg>\n`
  );
}

function polygons({ type, arcs }) {
  return type === "Polygon" ? [arcs] : arcs;
}

/** The points of an arc, which has the steps from each to the next. */
function absolute(arc, { scale, translate }) {
  let [x, y] = [0, 0];
  return arc.map(([dx, dy]) => {
    [x, y] = [x + dx, y + dy];
    return [x * scale[0] + translate[0], y * scale[1] + translate[1]];
  });
}

/** The points of a ring of arcs; `~number` is an arc backwards. */
function joined(ring, lines) {
  return ring.flatMap((number) => (number < 0 ? lines[~number].toReversed() : lines[number]).slice(0, -1));
}

/** Without jumps over the 180th meridian: what reaches over it is there on both sides, and what is around a pole is closed there. */
function unrolled(points) {
  let turn = 0;
  const steady = points.map(([x, y], place) => {
    if (place > 0) turn += 360 * Math.round((points[place - 1][0] - x) / 360);
    return [x + turn, y];
  });
  const around = turn + 360 * Math.round((points.at(-1)[0] - points[0][0]) / 360);
  if (around !== 0) {
    const pole = steady[0][1] < 0 ? -90 : 90;
    steady.push([steady[0][0] + around, steady[0][1]], [steady[0][0] + around, pole], [steady[0][0], pole]);
  }
  const xs = steady.map(([x]) => x);
  const copies = [0];
  if (Math.max(...xs) > 180) copies.push(-360);
  if (Math.min(...xs) < -180) copies.push(360);
  return copies.map((shift) => steady.map(([x, y]) => [x + shift, y]));
}

function area(points) {
  return points.reduce((sum, [x, y], place) => {
    const [nextX, nextY] = points[(place + 1) % points.length];
    return sum + (x * nextY - nextX * y) / 2;
  }, 0);
}

/** By Douglas and Peucker, from the first point to the one farthest from it and back. */
function simplified(points) {
  const [first] = points;
  const farthest = points.reduce((best, point, place) => (apart(point, first) > apart(points[best], first) ? place : best), 0);
  const there = reduced(points.slice(0, farthest + 1));
  const back = reduced([...points.slice(farthest), first]);
  return [...there.slice(0, -1), ...back.slice(0, -1)];
}

function reduced(points) {
  if (points.length < 3) return points;
  const [begin, end] = [points[0], points.at(-1)];
  let [most, at] = [0, 0];
  for (let place = 1; place < points.length - 1; place++) {
    const distance = fromLine(points[place], begin, end);
    if (distance > most) [most, at] = [distance, place];
  }
  if (most <= TOLERANCE_DEG) return [begin, end];
  return [...reduced(points.slice(0, at + 1)).slice(0, -1), ...reduced(points.slice(at))];
}

function apart([x, y], [otherX, otherY]) {
  return Math.hypot(x - otherX, y - otherY);
}

function fromLine([x, y], [beginX, beginY], [endX, endY]) {
  const length = Math.hypot(endX - beginX, endY - beginY);
  if (length === 0) return Math.hypot(x - beginX, y - beginY);
  return Math.abs((endX - beginX) * (beginY - y) - (beginX - x) * (endY - beginY)) / length;
}

function spelt(points) {
  const whole = points.map(([x, y]) => [Math.round(x * UNITS), Math.round(-y * UNITS)]);
  const steps = whole.slice(1).map(([x, y], place) => [x - whole[place][0], y - whole[place][1]]);
  return `M${whole[0].join(" ")}l${steps.map(([dx, dy]) => `${dx} ${dy}`).join(" ").replaceAll(" -", "-")}z`;
}
