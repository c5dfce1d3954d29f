// The texts that scripts show, in the page's language: the layout hands them over (pages/words.py has the list).

const texts: Record<string, string> = JSON.parse(document.getElementById("texts")?.textContent ?? "{}");

/** A text in the page's language, with its `%(name)s` filled in. */
export function text(message: string, values: Record<string, string | number> = {}): string {
  return (texts[message] ?? message).replace(/%\((\w+)\)[ds]/g, (place, name: string) => String(values[name] ?? place));
}

export const language = document.documentElement.lang || "en";
