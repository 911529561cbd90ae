// One stream from the broker: each event says that something changed, and the page then asks again what it shows.
// `EventSource` cannot send the header that proves who asks, so this reads the stream by `fetch`.

const AGAIN = 5000, REFUSED_AGAIN = 60000, SILENCE = 45000;

export class Stream {
  /** *changed* is called for each event, *moved* when the stream begins or ends. */
  constructor(changed, moved) {
    this.changed = changed;
    this.moved = moved;
    this.live = false;
  }

  open() {
    if (!this.current) this.follow((this.current = new AbortController()));
  }

  close() {
    this.current?.abort();
    this.current = null;
    clearTimeout(this.timer);
    this.live = false;
  }

  async follow(current) {
    let again = AGAIN, silence;
    // A proxy may have dropped the connection without a word: the broker sends something every 15 seconds.
    const heard = () => { clearTimeout(silence); silence = setTimeout(() => current.abort(), SILENCE); };
    try {
      heard();
      const response = await fetch("v1/events", {
        headers: { "X-Broker-Page": "1", Accept: "text/event-stream" },
        credentials: "same-origin", cache: "no-store", redirect: "error", signal: current.signal,
      });
      if (response.ok) {
        this.show(current, true);
        await this.read(response, heard);
      } else again = REFUSED_AGAIN; // an older broker, or all places are taken
    } catch { /* the poll goes on, and says what is wrong */ }
    clearTimeout(silence);
    if (this.current !== current) return;
    this.current = null;
    this.show(null, false);
    this.timer = setTimeout(() => this.open(), again);
  }

  async read(response, heard) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      if (events.some((event) => event.startsWith("event: changed"))) this.changed();
    }
  }

  show(current, live) {
    if (this.current !== current || this.live === live) return;
    this.live = live;
    this.moved();
  }
}
