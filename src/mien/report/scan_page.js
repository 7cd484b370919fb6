"use strict";
/* The list of conversations and the opened one. All text is put in as text nodes: no markup is ever made of data.
   `data` holds one array a column, `texts` the worst conversations with their messages. Gauges are numbers; a view is
   a gauge or "any". What is counted on the page was drawn before; this only shows the parts of the chosen view. */
(() => {
  const PER_PAGE = 50, MOST_OPTIONS = 300;
  const byId = id => document.getElementById(id);
  const data = JSON.parse(byId("lines").textContent);
  const gauges = data.gauges, several = gauges.length > 1;
  let kept = null;
  const texts = () => kept ??= new Map(JSON.parse(byId("texts").textContent).map(talk => [talk.index, talk]));

  const fill = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
    node.append(...children.filter(child => child !== null));
    return node;
  };
  const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  const minus = text => text.replace("-", "−");
  const whole = value => value.toLocaleString("en");
  const counted = (n, noun) => `${whole(n)} ${noun}${n === 1 ? "" : "s"}`;
  const sigmas = value => minus(value.toFixed(2).replace(/^-(0\.00)$/, "$1"));
  /* Cut, not rounded: 0.999 must not look like the 1 that says drifted. */
  const scored = value => value === null ? "–" : (Math.floor(value * 100 + 1e-9) / 100).toFixed(2);
  const when = seconds => seconds === null ? "" : new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");

  let view = data.view, order = [], page = 0, open = -1, pinned = null, scrolled = 0;
  let sort = { key: "score", down: true };

  /* ---- what a conversation's numbers are in the chosen view ---- */
  const worst = i => {
    let found = 0;
    for (let g = 1; g < gauges.length; g++) if ((data.scores[g][i] ?? -1) > (data.scores[found][i] ?? -1)) found = g;
    return found;
  };
  const gaugeOf = i => view === "any" ? worst(i) : Number(view);
  const scoreOf = i => data.scores[gaugeOf(i)][i];
  const leftOf = i => data.left[gaugeOf(i)][i];
  const modelOf = i => data.models[data.model[i]] ?? "";
  const placeOf = i => `line ${whole(data.line[i])} of ${data.sources[data.source[i]]}`;
  const COLUMNS = [
    { key: "id", title: "conversation", value: i => data.id[i], cell: i => [
      el("b", {}, el("a", { href: `#c${i}` }, data.id[i] || "(no id)")), el("small", {}, placeOf(i))] },
    { key: "model", title: "model", value: modelOf, cell: i => [modelOf(i)], there: data.models.length > 0 },
    { key: "when", title: "time, UTC", value: i => data.time[i], cell: i => [when(data.time[i])],
      there: data.time.some(time => time !== null) },
    { key: "turns", title: "turns", value: i => data.turns[i], cell: i => [whole(data.turns[i])] },
    { key: "on", title: "worst gauge", value: i => gauges[gaugeOf(i)].name, cell: i => [gauges[gaugeOf(i)].name],
      any: true },
    { key: "score", title: "score, 1: drifted", value: scoreOf, cell: i => [meter(scoreOf(i))] },
    { key: "left", title: "left at message", value: leftOf, cell: i => [leftOf(i) === null ? "" : whole(leftOf(i))] },
  ];
  const columns = () => COLUMNS.filter(column => column.there !== false && (!column.any || view === "any"));

  const highest = data.scores.flat().reduce((most, score) => Math.max(most, score ?? 0), 0);
  const METER = 200 / Math.min(Math.max(highest, 2), 5);
  function meter(score) {
    const frame = { class: "share", viewBox: "0 0 200 10", preserveAspectRatio: "none", "aria-hidden": "true" };
    const bar = svg("svg", frame,
      svg("rect", { class: "span", x: 0, y: 0, width: 200, height: 10 }),
      svg("rect", { class: "bar", x: 0, y: 1, width: Math.min(Math.max(score ?? 0, 0) * METER, 200), height: 8 }),
      svg("line", { class: "one", x1: METER, x2: METER, y1: 0, y2: 10 }));
    return el("span", { class: score >= 1 ? "meter-row over" : "meter-row" },
      el("span", { class: "value" }, scored(score)), bar);
  }

  /* ---- the list ---- */
  function search() {
    const find = byId("find").value.trim().toLowerCase(), model = byId("model").value, period = byId("period").value;
    const only = byId("only").checked, found = [];
    for (let i = 0; i < data.id.length; i++) {
      if (only && !(scoreOf(i) >= 1)) continue;
      if (model !== "" && data.model[i] !== Number(model)) continue;
      if (period !== "" && data.period[i] !== Number(period)) continue;
      if (find && !says(i, find)) continue;
      found.push(i);
    }
    const { value } = COLUMNS.find(column => column.key === sort.key);
    const keys = new Map(found.map(i => [i, value(i)]));
    const sign = sort.down ? -1 : 1;
    const missing = key => key === null || key === undefined || key === "";
    order = found.sort((a, b) => {
      const x = keys.get(a), y = keys.get(b);
      if (missing(x) || missing(y)) return missing(x) - missing(y) || a - b;
      return sign * (x < y ? -1 : x > y ? 1 : 0) || a - b;
    });
  }
  /* In lower case, made once: the texts of a conversation are searched with its line. */
  const haystacks = [];
  const says = (i, find) => (haystacks[i] ??= [data.id[i], placeOf(i), modelOf(i),
    ...(texts().get(i)?.turns ?? []).map(turn => turn.text)].join("\n").toLowerCase()).includes(find);

  function list(at = 0) {
    search();
    turnTo(at);
    const all = data.id.length, drifted = order.filter(i => scoreOf(i) >= 1).length;
    const shown = order.length === all ? "" : `${whole(order.length)} of `;
    const searched = data.kept < all ? ` Words are found in the texts of the worst ${whole(data.kept)} only.` : "";
    byId("found").textContent = `${shown}${counted(all, "conversation")}, ${whole(drifted)} drifted.${searched}`;
    for (const period of document.querySelectorAll(".period"))
      period.classList.toggle("now", period.dataset.period === byId("period").value);
  }
  function turnTo(at) {
    page = Math.max(Math.min(at, Math.ceil(order.length / PER_PAGE) - 1), 0);
    const from = page * PER_PAGE, shown = order.slice(from, from + PER_PAGE), cells = columns();
    byId("heads").replaceChildren(...cells.map(head));
    byId("rows").replaceChildren(...shown.map(i => el("tr", { "data-index": i }, ...cells.map(({ key, cell }) =>
      key === "id" ? el("th", { class: key, dir: "auto" }, ...cell(i)) : el("td", { class: key }, ...cell(i))))));
    if (!shown.length) byId("rows").append(
      el("tr", {}, el("td", { class: "none-yet", colspan: cells.length }, "No conversation is like that.")));
    byId("page-at").textContent = shown.length
      ? `${whole(from + 1)} to ${whole(from + shown.length)} of ${whole(order.length)}` : "";
    byId("page-back").disabled = page === 0;
    byId("page-on").disabled = from + PER_PAGE >= order.length;
  }
  function head(column, place) {
    const sorted = sort.key === column.key, arrow = sorted ? sort.down ? " ↓" : " ↑" : "";
    const button = el("button", { type: "button" }, column.title + arrow);
    button.addEventListener("click", () => {
      sort = { key: column.key, down: sorted ? !sort.down : ["score", "turns", "when"].includes(column.key) };
      list();
      byId("heads").children[place]?.firstChild.focus();
    });
    const direction = sort.down ? "descending" : "ascending";
    return el("th", { class: column.key, scope: "col", "aria-sort": sorted ? direction : null }, button);
  }
  const link = i => byId("rows").querySelector(`tr[data-index="${i}"] a`);

  function setView(chosen) {
    view = chosen;
    for (const part of document.querySelectorAll("[data-view]")) part.hidden = part.dataset.view !== view;
    for (const row of document.querySelectorAll("[data-row]"))
      row.classList.toggle("chosen", several && row.dataset.row === view);
    for (const button of document.querySelectorAll("[data-pick]"))
      button.setAttribute("aria-pressed", button.dataset.pick === view);
    if (!data.id.length) return;
    byId("gauge").value = view;
    if (sort.key === "on" && view !== "any") sort = { key: "score", down: true };
    list();
  }

  /* ---- one conversation ---- */
  const gaugeShown = () => pinned ?? (view === "any" ? texts().get(open)?.gauge ?? worst(open) : Number(view));
  const home = g => gauges[g].name === "assistant"
    ? "the Assistant’s character" : `the ordinary range of “${gauges[g].name}”`;

  function openTalk(i) {
    open = i;
    const id = data.id[i] || "(no id)", time = when(data.time[i]);
    byId("talk-name").textContent = id.length > 120 ? `${id.slice(0, 119)}…` : id;
    byId("talk-facts").textContent = [modelOf(i), time && `${time} UTC`, `${counted(data.turns[i], "turn")} read`,
      placeOf(i)].filter(Boolean).join(" · ");
    const at = order.indexOf(i);
    byId("place").textContent = at < 0 ? "not in the list as it is filtered" : `${whole(at + 1)} of ${whole(order.length)}`;
    byId("before").disabled = at <= 0;
    byId("after").disabled = at < 0 || at === order.length - 1;
    show(true);
    drawTalk();
  }
  function show(talk) {
    byId("talk").hidden = !talk;
    byId("overview").hidden = talk;
  }
  function drawTalk() {
    const g = gaugeShown(), talk = texts().get(open);
    byId("talk-gauges").replaceChildren(...(several ? gauges.map((gauge, k) => gaugeRow(gauge, k, g)) : []));
    const score = data.scores[g][open], left = data.left[g][open];
    byId("talk-told").textContent = score === null ? "Not measured." : score >= 1
      ? `Left ${home(g)}${left === null ? "" : ` at message ${whole(left)}`}: score ${scored(score)} (1 is drifted).`
      : `Stayed within ${home(g)}: score ${scored(score)} (1 would be drifted).`;
    byId("talk-figure").hidden = !talk;
    byId("to-left").hidden = !talk || left === null;
    drawLegend(talk);
    byId("turns").replaceChildren(...(talk ? talk.turns.flatMap((turn, k) => message(turn, k, g, left)) : [
      el("p", { class: "caution" }, `Its text is not on this page: text is kept for the worst ${whole(data.kept)} only. ` +
        `The log has it in ${placeOf(open)}.`)]));
    if (talk) drawChart(talk, g, left);
  }
  function gaugeRow(gauge, k, g) {
    const left = data.left[k][open];
    const button = el("button", { type: "button", "aria-pressed": k === g }, el("span", {}, gauge.name),
      meter(data.scores[k][open]), el("span", { class: "left" }, left === null ? "" : `left at ${whole(left)}`));
    button.addEventListener("click", () => {
      pinned = k;
      drawTalk();
      byId("talk-gauges").children[k].focus();
    });
    return button;
  }
  function drawLegend(talk) {
    const tinted = talk?.turns.some(turn => turn.runs.length);
    byId("legend").replaceChildren(...(tinted ? [
      `Tokens on “${gauges[talk.gauge].name}”, in sigma: away from the alarm`,
      ...[-3, -2, -1, 1, 2, 3].map(level => el("mark", { class: tint(level) },
        minus(`${level > 0 ? "+" : ""}${+(level * data.step).toPrecision(3)}`))),
      "towards it"] : []));
  }
  const tint = level => `${level > 0 ? "h" : "c"}${Math.abs(level)}t`;
  function message(turn, k, g, left) {
    const sigma = turn.sigma[g], said = el("div", { class: "said", dir: "auto" });
    let at = 0;
    for (let r = 0; r < turn.runs.length; r += 2) {
      const piece = turn.text.slice(at, at += turn.runs[r]);
      said.append(turn.runs[r + 1] ? el("mark", { class: tint(turn.runs[r + 1]) }, piece) : piece);
    }
    said.append(turn.text.slice(at) || (at ? "" : "(empty)"));
    const kind = sigma === null ? "unread" : turn.alarm[g] ? "read alarmed" : "read";
    const article = el("article", { class: `turn ${kind}`, id: `m${k}`, tabindex: -1 },
      el("h3", {}, el("b", {}, turn.role || "(no role)"), el("span", {}, `message ${whole(turn.at)}`),
        sigma === null ? null : el("span", {}, `${sigmas(sigma)} sigma`),
        turn.cusum[g] === null ? null : el("span", {}, `drift ${scored(turn.cusum[g])}`),
        turn.alarm[g] ? el("span", { class: "flag" }, "alarm") : null),
      said, turn.more ? el("p", { class: "quiet" },
        `${counted(turn.more, "more character")} of this message in ${placeOf(open)}.`) : null);
    const mark = el("p", { class: "left-here", id: "left-here" }, `Left ${home(g)} here`);
    return turn.at === left ? [mark, article] : [article];
  }
  function goTo(article, to = article) {
    if (!article) return;
    for (const other of byId("turns").querySelectorAll(".now")) other.classList.remove("now");
    article.classList.add("now");
    to.scrollIntoView({ behavior: "instant", block: "start" });
    article.focus({ preventScroll: true });
  }
  const goToLeft = () => goTo(byId("left-here")?.nextElementSibling, byId("left-here"));

  /* ---- its chart: sigma above, drift below ---- */
  const HEIGHT = 352, LEFT = 38, SIGMA = [196, 40], DRIFT = [318, 232];
  function scale(low, high, start, end) {
    return value => high === low ? (start + end) / 2
      : start + (Math.min(Math.max(value, low), high) - low) / (high - low) * (end - start);
  }
  function ticks(low, high, about) {
    const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-6); k <= high / step + 1e-6; k++) found.push(+(k * step).toPrecision(12));
    return found;
  }
  const path = points => points.length ? "M" + points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L") : "";
  const line = (style, x1, x2, y1, y2) => svg("line", { class: style, x1, x2, y1, y2 });
  const text = (words, style, x, y) => svg("text", { class: style, x, y }, words);
  const least = values => values.reduce((a, b) => Math.min(a, b)), most = values => values.reduce((a, b) => Math.max(a, b));

  function drawChart(talk, g, left) {
    const chart = byId("talk-chart"), width = Math.max(chart.parentNode.clientWidth, 240);
    const turns = talk.turns.map((turn, k) =>
      ({ k, at: turn.at, sigma: turn.sigma[g], cusum: turn.cusum[g], alarm: turn.alarm[g] }));
    const read = turns.filter(turn => turn.sigma !== null), drift = turns.filter(turn => turn.cusum !== null);
    const { at, side } = gauges[g], ends = [0, at === null ? 0 : at * 1.25, ...read.map(turn => turn.sigma)];
    const low = least(ends), high = most(ends), pad = (high - low || 2) * 0.08;
    const places = turns.map(turn => turn.at), first = least(places), last = most(places);
    const plot = {
      width, side, at, first, last, low: low - pad, high: high + pad,
      top: most([1.25, ...drift.map(turn => turn.cusum * 1.05)]),
      x: scale(first, last, LEFT + 8, width - 14), y: scale(low - pad, high + pad, ...SIGMA),
    };
    plot.z = scale(0, plot.top, ...DRIFT);
    const now = line("now-line", 0, 0, SIGMA[1], DRIFT[0]);
    now.setAttribute("visibility", "hidden");
    chart.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    chart.replaceChildren(...frame(plot), ...curves(plot, read, drift), ...leftLine(plot, left), now);
    answer(chart, plot, read, now);
  }
  function frame({ width, side, at, first, last, low, high, top, x, y, z }) {
    const parts = [text("sigma of each turn", "faint", 0, 12), text("drift, added up", "faint", 0, 222)];
    const row = (value, py) => [line("grid", LEFT, width, py, py), text(minus(String(value)), "tick end", 32, py + 4)];
    for (const value of ticks(low, high, 5)) parts.push(...row(value, y(value)));
    for (const value of ticks(0, top, 3)) parts.push(...row(value, z(value)));
    if (at !== null) {
      const [from, to] = side === "low" ? [y(at), SIGMA[0]] : [SIGMA[1], y(at)];
      parts.push(
        svg("rect", { class: "alarm-band", x: LEFT, y: from, width: width - LEFT, height: Math.max(to - from, 0) }),
        text(`alarm ${side === "low" ? "below" : "above"} ${minus(String(+at.toFixed(1)))}`, "faint", 44,
          side === "low" ? 191 : 53));
    }
    parts.push(line("axis", LEFT, width, y(0), y(0)), line("level", LEFT, width, z(1), z(1)),
      line("axis", LEFT, width, DRIFT[0], DRIFT[0]));
    const fits = value => Number.isInteger(value) && value >= first && value <= last;
    for (const value of ticks(first, Math.max(last, first + 1), Math.max(Math.floor(width / 70), 2)).filter(fits))
      parts.push(line("axis", x(value), x(value), 318, 322), text(String(value), "tick middle", x(value), 334));
    parts.push(text("message", "faint middle", (LEFT + width) / 2, 350));
    return parts;
  }
  function curves({ x, y, z }, read, drift) {
    const radius = read.length > 150 ? 1.6 : read.length > 60 ? 2.6 : 4;
    return [
      svg("path", { class: "sigma-line", d: path(read.map(turn => [x(turn.at), y(turn.sigma)])) }),
      svg("path", { class: "cusum-line", d: path(drift.map(turn => [x(turn.at), z(turn.cusum)])) }),
      ...read.map(turn => turn.alarm
        ? svg("rect", { class: "dot alarmed", x: x(turn.at) - radius, y: y(turn.sigma) - radius,
          width: 2 * radius, height: 2 * radius })
        : svg("circle", { class: "dot turn", cx: x(turn.at), cy: y(turn.sigma), r: radius })),
    ];
  }
  function leftLine({ x, width, first, last }, left) {
    if (left === null || left < first || left > last) return [];
    const late = x(left) > width / 2;
    return [line("left-line", x(left), x(left), 22, DRIFT[0]),
      text("left here", late ? "left-word end" : "left-word", x(left) + (late ? -6 : 6), 31)];
  }
  function answer(chart, { x, width }, read, now) {
    const alarms = read.filter(turn => turn.alarm).length;
    const rest = `${counted(read.length, "turn")} read, ${whole(alarms)} alarmed${alarms ? " (squares)" : ""}.`;
    const nearest = event => {
      const px = (event.clientX - chart.getBoundingClientRect().left) * width / chart.clientWidth;
      return read.reduce((best, turn) => Math.abs(x(turn.at) - px) < Math.abs(x(best.at) - px) ? turn : best, read[0]);
    };
    byId("readout").textContent = rest;
    chart.onpointermove = event => {
      const turn = nearest(event);
      if (!turn) return;
      now.setAttribute("visibility", "visible");
      now.setAttribute("x1", x(turn.at));
      now.setAttribute("x2", x(turn.at));
      const alarm = turn.alarm ? ", alarm" : "", drift = turn.cusum === null ? "" : `, drift ${scored(turn.cusum)}`;
      byId("readout").textContent = `message ${whole(turn.at)}: ${sigmas(turn.sigma)} sigma${alarm}${drift}`;
    };
    chart.onpointerleave = () => {
      now.setAttribute("visibility", "hidden");
      byId("readout").textContent = rest;
    };
    chart.onclick = event => goTo(byId(`m${nearest(event)?.k}`));
  }

  /* ---- where we are: `#c12` is conversation 12, anything else the overview ---- */
  function route() {
    const wanted = /^#c(\d{1,9})$/.exec(location.hash), i = wanted ? Number(wanted[1]) : -1;
    if (i >= 0 && i < data.id.length) {
      if (open < 0) scrolled = scrollY;
      openTalk(i);
      scrollTo(0, 0);
      byId("talk-name").focus({ preventScroll: true });
    } else if (open >= 0) {
      const was = open;
      open = -1;
      pinned = null;
      show(false);
      if (order.includes(was)) turnTo(Math.floor(order.indexOf(was) / PER_PAGE));
      scrollTo(0, scrolled);
      link(was)?.focus();
    }
  }
  const step = by => {
    const next = order[order.indexOf(open) + by];
    if (order.includes(open) && next !== undefined) location.replace(`#c${next}`);
  };
  const back = () => { location.hash = "list"; };
  const nextGauge = () => { if (several) { pinned = (gaugeShown() + 1) % gauges.length; drawTalk(); } };
  const KEYS = {
    ArrowLeft: () => step(-1), k: () => step(-1), ArrowRight: () => step(1), j: () => step(1),
    Escape: back, g: nextGauge, l: goToLeft,
  };
  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, select")) return;
    if (open >= 0) {
      const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (act) { event.preventDefault(); act(); }
    } else if (event.key === "/") {
      event.preventDefault();
      byId("find").focus();
    } else if (["ArrowDown", "ArrowUp"].includes(event.key) && event.target.closest?.("#rows")) {
      event.preventDefault();
      const at = order.indexOf(Number(event.target.closest("tr").dataset.index)) + (event.key === "ArrowDown" ? 1 : -1);
      if (order[at] === undefined) return;
      if (Math.floor(at / PER_PAGE) !== page) turnTo(Math.floor(at / PER_PAGE));
      link(order[at])?.focus();
    }
  }

  function options(id, named) {
    byId(id).replaceChildren(...named.slice(0, MOST_OPTIONS).map(([value, name]) => el("option", { value }, name)));
    byId(id).parentNode.hidden = named.length < 2;
  }
  for (const part of document.querySelectorAll(".scripted")) part.hidden = false;
  for (const button of document.querySelectorAll("[data-pick]"))
    button.addEventListener("click", () => setView(button.dataset.pick));
  if (!data.id.length) return;
  byId("overview").classList.add("live");
  const each = gauges.map((gauge, k) => [String(k), gauge.name]);
  options("gauge", several ? [...each, ["any", "any gauge"]] : each);
  options("model", data.models.length ? [["", "all"], ...data.models.map((name, k) => [k, name])] : []);
  options("period", data.periods.length ? [["", "all"], ...data.periods.map((name, k) => [k, name]).reverse()] : []);
  byId("gauge").addEventListener("change", event => setView(event.target.value));
  for (const id of ["find", "model", "period", "only"]) byId(id).addEventListener("input", () => list());
  byId("filters").addEventListener("submit", event => event.preventDefault());
  for (const period of document.querySelectorAll(".period")) period.addEventListener("click", () => {
    byId("period").value = byId("period").value === period.dataset.period ? "" : period.dataset.period;
    list();
    byId("list").scrollIntoView();
  });
  byId("rows").addEventListener("click", event => {
    const row = event.target.closest("tr[data-index]");
    if (row && !event.target.closest("a")) location.hash = `c${row.dataset.index}`;
  });
  byId("page-back").addEventListener("click", () => turnTo(page - 1));
  byId("page-on").addEventListener("click", () => turnTo(page + 1));
  byId("back").addEventListener("click", back);
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));
  byId("to-left").addEventListener("click", goToLeft);
  addEventListener("keydown", pressed);
  addEventListener("hashchange", route);
  addEventListener("resize", () => {
    const talk = open >= 0 ? texts().get(open) : null, g = talk ? gaugeShown() : 0;
    if (talk) drawChart(talk, g, data.left[g][open]);
  });
  setView(view);
  route();
})();
