/* What the interactive figures share: elements, labelled inputs, axes, announcements.

   The page comes with a figure that needs no script: a table and a caption. `mount` puts
   the interactive figure before the table and folds the table away. If anything fails,
   the table stays as it was. */

(() => {
  "use strict";

  let serial = 0;
  const unique = (name) => `widget-${name}-${++serial}`;

  function attach(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (typeof value === "function") node.addEventListener(name, value);
      else if (value !== null && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.flat().filter((child) => child !== null));
    return node;
  }

  /** An HTML element; an attribute that is a function listens to the event. */
  function make(tag, attributes, ...children) {
    return attach(document.createElement(tag), attributes, children);
  }

  /** An SVG element. */
  function draw(tag, attributes, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    return attach(node, attributes, children);
  }

  /** Text in which p_A and p_B are set as symbols, in HTML or, with `svg`, in a drawing. */
  function rich(words, svg = false) {
    return words.split(/(p_[AB])/).map((part, i) => {
      if (i % 2 === 0) return part;
      if (!svg) return make("span", {}, make("i", {}, "p"), make("sub", {}, part[2]));
      return [draw("tspan", { "font-style": "italic" }, "p"),
        draw("tspan", { dy: 3, "font-size": "75%" }, part[2]), draw("tspan", { dy: -3 }, "\u200b")];
    }).flat();
  }

  /** A number in so many decimals, rounded "down", "up" or to the nearest. */
  function decimals(value, digits, way = "near") {
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    let text = value.toFixed(digits);
    const unit = 10 ** -digits;
    // As lipsmooth.evaluate.round_down: on the shortest decimal that names the value.
    if (way === "down" && Number(text) > value) text = (text - unit).toFixed(digits);
    if (way === "up" && Number(text) < value) text = (+text + unit).toFixed(digits);
    return text.replace("-", "−");
  }

  const grouped = (value) => value.toLocaleString("en-GB");

  /** A labelled input of any kind; `hint` is read out with it. */
  function field(label, input, hint = null) {
    input.id ||= unique("input");
    const note = hint && make("small", { id: unique("hint") }, hint);
    if (note) input.setAttribute("aria-describedby", note.id);
    const name = make("label", { for: input.id }, rich(label));
    return make("div", { class: "widget-field" }, name, input, note);
  }

  /** A labelled slider whose value is shown, and read out, in words. */
  function slider({ label, min, max, step, value, words, change }) {
    const input = make("input", {
      type: "range", id: unique("range"), min, max, step, value,
      input: () => { show(); change(); },
    });
    const shown = make("output", { for: input.id });
    function show() {
      shown.textContent = words(input.valueAsNumber);
      input.setAttribute("aria-valuetext", shown.textContent);
    }
    show();
    const name = make("label", { for: input.id }, rich(label), " ");
    const element = make("div", { class: "widget-field" },
      make("div", { class: "widget-head" }, name, shown), input);
    return {
      element,
      show,
      get value() { return input.valueAsNumber; },
      set value(number) { input.value = number; show(); },
    };
  }

  /** A text that is read out once it has stayed the same for a moment. */
  function status() {
    const element = make("p", { class: "widget-status", role: "status" });
    let timer = 0;
    const say = (text) => {
      clearTimeout(timer);
      timer = setTimeout(() => { element.textContent = text; }, 400);
    };
    return { element, say };
  }

  /** A table from rows of cells; the first row is its head, each first cell a heading. */
  function table(rows, current = -1) {
    const head = make("tr", {}, rows[0].map((c) => make("th", { scope: "col" }, rich(c))));
    const body = rows.slice(1).map((cells, i) =>
      make("tr", { class: i === current ? "current" : null },
        cells.map((c, j) => (j ? make("td", {}, c) : make("th", { scope: "row" }, c)))));
    return make("table", {}, make("thead", {}, head), make("tbody", {}, body));
  }

  /** A drawing that is redrawn at the width it is given, so that its text stays legible. */
  function drawing(height, label, paint) {
    const svg = draw("svg", { role: "img", "aria-label": label, height });
    const box = make("div", { class: "widget-drawing" }, svg);
    let width = 0;
    const repaint = () => {
      if (!width) return;
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.replaceChildren(...paint(width, height).flat());
    };
    new ResizeObserver(([entry]) => {
      const now = Math.round(entry.contentRect.width);
      if (now === width) return;
      width = now;
      repaint();
    }).observe(box);
    return { box, svg, repaint };
  }

  const text = (x, y, words, attributes = {}) =>
    draw("text", { x, y, ...attributes }, rich(words, true));
  const line = (x1, y1, x2, y2, attributes) => draw("line", { x1, y1, x2, y2, ...attributes });

  /** Axes of a chart: scales that map values to pixels, and the drawn frame. */
  function axes({ width, height, x, y }) {
    const left = 56, right = 12, top = 14, bottom = 44;
    const scale = ({ range, log }, from, to) => {
      const f = log ? Math.log : (v) => v;
      const [a, b] = range.map(f);
      return (v) => from + ((f(v) - a) / (b - a)) * (to - from);
    };
    const sx = scale(x, left, width - right), sy = scale(y, height - bottom, top);
    const base = height - bottom;
    const frame = draw("g", { class: "axes" },
      line(left, base, width - right, base), line(left, top, left, base),
      x.ticks.map(([v, name]) => [
        line(sx(v), base, sx(v), base + 4),
        text(sx(v), base + 18, name, { "text-anchor": "middle" }),
      ]).flat(),
      y.ticks.map(([v, name]) => [
        line(left - 4, sy(v), left, sy(v)),
        text(left - 7, sy(v) + 4, name, { "text-anchor": "end" }),
      ]).flat(),
      text((left + width - right) / 2, height - 6, x.label, { "text-anchor": "middle" }),
      text(0, 0, y.label, {
        "text-anchor": "middle", transform: `translate(12 ${(top + base) / 2}) rotate(-90)`,
      }));
    const path = (points, attributes) => draw("path", {
      d: points.map(([a, b], i) => `${i ? "L" : "M"}${sx(a).toFixed(2)} ${sy(b).toFixed(2)}`)
        .join(""),
      ...attributes,
    });
    return { sx, sy, frame, path, left, right: width - right, top, base };
  }

  /** Evenly spaced ticks at round values, and how they are written. */
  function ticks(max, count = 5) {
    const rough = max / count, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((m) => m * power >= rough) * power;
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const values = Array.from({ length: Math.floor(max / step + 1e-9) + 1 }, (_, i) => i * step);
    return values.map((v) => [v, v.toFixed(digits)]);
  }

  /** Evenly spaced numbers from a to b. */
  const linspace = (a, b, count) =>
    Array.from({ length: count }, (_, i) => a + ((b - a) * i) / (count - 1));

  /** Build every figure of this name on the page. */
  function mount(name, build) {
    for (const figure of document.querySelectorAll(`figure.widget[data-widget=${name}]`)) {
      const parts = build(JSON.parse(figure.dataset.start));
      const numbers = figure.querySelector(".widget-numbers");
      const panel = make("div", { class: "widget-panel" }, parts);
      const fold = make("details", {}, make("summary", {}, "Some values, computed by the module"));
      numbers.before(panel, fold);
      fold.append(numbers);
      figure.dataset.ready = "";
    }
  }

  window.lipsmooth.ui = {
    make, draw, rich, decimals, grouped, field, slider, status, table, drawing, text, line,
    axes, ticks, linspace, mount, unique,
  };
})();
