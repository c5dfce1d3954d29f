// Readings as they arrive. An element with `data-stream="/api/v1/stream?metric=7&metric=8"` gets
//
//   a `reading` event for each (its detail is what the API's stream says of it), for scripts that draw it, and
//   a `readings` event after those of a moment, for `hx-trigger="readings throttle:2s"`.
//
// A browser opens few connections to a host, and each stream holds one: so a page has its stream only while it is seen,
// and goes on from the last event when it is seen again. What it missed comes first.

import { text } from "./texts";

export interface Reading {
  metric_id: number;
  timestamp: string;
  value: number;
  received_at: string;
}

const GATHERED_FOR_MS = 200;
const HIDDEN_FOR_MS = 20_000;

/** Follows all streams of the page as it is now; those that come with a partial update start with it. */
export function startStreams(): void {
  followAll(document);
  document.addEventListener("htmx:after:swap", () => followAll(document));
}

function followAll(within: ParentNode): void {
  for (const element of within.querySelectorAll<HTMLElement>("[data-stream]")) follow(element);
}

const followed = new Map<HTMLElement, Stream>();

/** Follow the stream that an element names; from now on it follows each change of `data-stream` by itself. */
export function follow(element: HTMLElement): void {
  if (!followed.has(element)) followed.set(element, new Stream(element));
}

class Stream {
  private source: EventSource | null = null;
  private lastId = "";
  private gathering = false;
  private hiding: number | undefined;

  constructor(private readonly element: HTMLElement) {
    new MutationObserver(() => this.restart()).observe(element, { attributeFilter: ["data-stream"] });
    document.addEventListener("visibilitychange", () => this.seen());
    window.addEventListener("pagehide", () => this.close());
    window.addEventListener("pageshow", (event) => event.persisted && this.open());
    this.open();
  }

  private restart(): void {
    this.close();
    this.lastId = "";
    this.open();
  }

  private seen(): void {
    window.clearTimeout(this.hiding);
    if (document.hidden) this.hiding = window.setTimeout(() => this.close(), HIDDEN_FOR_MS);
    else if (!this.source) this.open();
  }

  private open(): void {
    const address = this.element.dataset.stream;
    if (!address || document.hidden || !this.element.isConnected) return;
    const url = new URL(address, location.href);
    if (this.lastId) url.searchParams.set("last_event_id", this.lastId);
    const source = new EventSource(url);
    this.source = source;
    source.addEventListener("open", () => this.say(""));
    source.addEventListener("reading", (event) => this.arrived(event));
    source.addEventListener("reset", () => this.gather());
    source.addEventListener("end", (event) => this.ended(JSON.parse(event.data)));
    source.addEventListener("error", () => this.failed(source));
  }

  private close(): void {
    this.source?.close();
    this.source = null;
  }

  private arrived(event: MessageEvent<string>): void {
    if (!this.element.isConnected) {
      this.close();
      followed.delete(this.element);
      return;
    }
    this.lastId = event.lastEventId;
    this.element.dispatchEvent(new CustomEvent<Reading>("reading", { detail: JSON.parse(event.data) }));
    this.gather();
  }

  private gather(): void {
    if (this.gathering) return;
    this.gathering = true;
    window.setTimeout(() => {
      this.gathering = false;
      this.element.dispatchEvent(new CustomEvent("readings"));
    }, GATHERED_FOR_MS);
  }

  private ended({ reason }: { reason: string }): void {
    if (reason === "shutdown" || reason === "unavailable") return; // the browser connects again by itself
    this.close();
    this.say(text("Live values have ended; load the page again."));
  }

  private failed(source: EventSource): void {
    this.say(
      source.readyState === EventSource.CLOSED
        ? text("Live values have ended; load the page again.")
        : text("The connection is lost; values are as of before. Trying again …"),
    );
  }

  private say(message: string): void {
    const notice = document.getElementById("live-notice");
    if (!notice) return;
    notice.textContent = message;
    notice.hidden = message === "";
  }
}
