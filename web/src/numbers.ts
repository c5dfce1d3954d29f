// Numbers as the pages spell them (`Language.number` of pages/words.py).

import { language } from "./texts";

const THIN_SPACE = "\u202f";
const MINUS = "\u2212";
const DECIMAL_SIGN = language === "de" ? "," : ".";

/** With as many decimals as its size asks for: 0.05, 3.20, 123.4, 45 678. */
export function number(value: number): string {
  const size = Math.abs(value);
  if (!Number.isFinite(value)) return String(value);
  if (size >= 1e15 || (size !== 0 && size < 0.005)) return spelt(String(Number(value.toPrecision(3))));
  const [whole = "", decimals] = size.toFixed(size < 100 ? 2 : size < 10_000 ? 1 : 0).split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, THIN_SPACE);
  return spelt((value < 0 ? "-" : "") + grouped + (decimals ? `.${decimals}` : ""));
}

function spelt(told: string): string {
  return told.replaceAll("-", MINUS).replace(".", DECIMAL_SIGN);
}
