// How a review stands, as text and drawings. Every word from outside is set as text, never read as HTML.

const SVG = "http://www.w3.org/2000/svg";
const whole = new Intl.NumberFormat("en");
const find = (id) => document.getElementById(id);
const share = (value) => value.toFixed(2).replace(/^0/, "");
const count = (kinds) => Object.values(kinds || {}).reduce((sum, each) => sum + each, 0);

export function element(name, text = "", attributes = {}, space = null) {
  const made = space ? document.createElementNS(space, name) : document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** Show a state of the review. */
export function showState(state, person) {
  find("figures").hidden = false;
  const parts = [`${whole.format(count(state.answers))} answers`];
  if (state.pairs_a_minute) parts.push(`${state.pairs_a_minute.toFixed(0)} /min`);
  if (state.seconds_left) parts.push(`${duration(state.seconds_left)} left`);
  find("pace").textContent = parts.join(" · ");
  keyFigures(state);
  certificate(state.certificate);
  const rows = (state.expected || []).map((each) => row(
    `at ${Math.round(100 * each.precision)} % precision`, whole.format(each.pairs)));
  find("expected").replaceChildren(...(rows.length ? rows : [element("li", "known after some answers")]));
  const more = state.more;
  find("more").textContent = more ? `${whole.format(more.answers)} more answers should bring an average precision of about ${share(more.average_precision)}.` : "";
  find("people").replaceChildren(...Object.entries(state.people || {}).map(([name, kinds]) => {
    const made = row(name === person ? `${name} (you)` : name, whole.format(count(kinds)));
    made.firstChild.dir = "auto";
    return made;
  }));
  const both = state.agreement;
  find("agreement").textContent = both && both.pairs ? `${both.agreed} of ${both.pairs} pairs that several people judged are judged alike.` : "No pair was judged by several people yet.";
  reliability(state.reliability || [], state.signal_reliability || {});
}

function row(label, value) {
  const made = element("li");
  made.append(element("span", label), element("strong", value));
  return made;
}

function keyFigures(state) {
  const precision = state.average_precision;
  const kinds = state.answers || {};
  const figures = [
    ["Answers", whole.format(count(kinds)), `${kinds.yes || 0} yes, ${kinds.no || 0} no, ${kinds.unsure || 0} unsure`],
    ["Matches found", whole.format(state.matches || 0), "pairs that people call true"],
    ["Average precision", precision ? share(precision.value) : "–",
      precision ? `${share(precision.low)} to ${share(precision.high)}, on ${precision.answers} answers it was not fitted on` : "known after some answers"],
  ];
  find("key-figures").replaceChildren(...figures.map(([name, value, note]) => {
    const made = element("div");
    const shown = element("dd", value);
    shown.append(element("small", note));
    made.append(element("dt", name), shown);
    return made;
  }));
}

function certificate(one) {
  const runs = Boolean(one) && one.held === null;
  const bar = find("sample");
  bar.hidden = !runs;
  find("certify").hidden = runs;
  if (runs) {
    bar.max = one.of;
    bar.value = one.asked;
    bar.setAttribute("aria-label", "Answered of the random sample");
  }
  find("certificate").textContent = !one
    ? "A random sample of the judge’s best pairs will be asked, and what it shows can be stated when you train."
    : runs ? `${one.asked} of ${one.of} of a random sample are answered, ${one.matched} match (for ${Math.round(100 * one.precision)} %).` : one.sentence;
}

function reliability(bins, signals) {
  const place = find("reliability");
  if (!bins.length) {
    place.replaceChildren(element("p", "Drawn after some answers.", { class: "muted" }));
    return;
  }
  const asked = Object.entries(signals).flatMap(([name, own]) => {
    const title = element("h4", name);
    title.dir = "auto";
    return [title, diagram(own)];
  });
  const note = element("p", "Height: share of the answers that say yes. On the dashed line, the judge is right about itself.", { class: "muted" });
  place.replaceChildren(diagram(bins), note, ...asked);
}

function diagram(bins) {
  const x = (value) => 34 + 196 * value, y = (value) => 206 - 196 * value;
  const drawn = element("svg", "", { viewBox: "0 0 240 244", role: "img", "aria-label": `Stated against found share of matches: ${bins.map((bin) => `${share(bin.predicted)} stated, ${share(bin.observed)} found`).join("; ")}` }, SVG);
  const line = (x1, y1, x2, y2, kind) => drawn.append(element("line", "", { x1: x(x1), y1: y(y1), x2: x(x2), y2: y(y2), class: kind }, SVG));
  for (const tick of [0, 0.5, 1]) {
    line(0, tick, 1, tick, "grid");
    drawn.append(element("text", String(tick), { x: 28, y: y(tick) + 4, "text-anchor": "end" }, SVG));
    drawn.append(element("text", String(tick), { x: x(tick), y: 221, "text-anchor": "middle" }, SVG));
  }
  line(0, 0, 1, 1, "ideal");
  for (const bin of bins) {
    line(bin.predicted, bin.low, bin.predicted, bin.high, "bar");
    drawn.append(element("circle", "", { cx: x(bin.predicted), cy: y(bin.observed), r: 4 }, SVG));
  }
  drawn.append(element("text", "stated probability", { x: x(0.5), y: 236, "text-anchor": "middle" }, SVG));
  return drawn;
}
