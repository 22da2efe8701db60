/* Three radii against the mean score and against the Lipschitz constant. */

(() => {
  "use strict";
  const { normal, quantile, radiusMono, radiusExact, radiusPublished } = lipsmooth;
  const { make, draw, decimals, slider, status, table, drawing, text, line, axes, ticks,
    linspace, mount } = lipsmooth.ui;

  const RADII = [
    ["exact", "blue", radiusExact],
    ["published", "vermilion", radiusPublished],
    ["Cohen", "green", (p, sigma) => radiusMono(p, sigma)],
  ];
  const Z_MAX = 3.72; // of the mean score, Φ(3.72) = 0.9999
  const STEEP = [0.05, 20]; // the range of the constant, per unit of the input

  // Values that the slider can show in full, so that they are what is computed with.
  const scoreAt = (z) => Number((1 - (1 - normal(z)).toPrecision(2)).toFixed(6));
  const constantAt = (v) => Number((10 ** v).toPrecision(3));
  const plain = (value) => String(Number(value.toPrecision(6)));

  mount("lipschitz", (start) => {
    const score = slider({
      label: "p, mean score of A", min: 0.02, max: Z_MAX, step: 0.02,
      value: quantile(start.score), words: (z) => plain(scoreAt(z)), change: update,
    });
    const steep = slider({
      label: "L, Lipschitz constant", min: Math.log10(STEEP[0]), max: Math.log10(STEEP[1]),
      step: 0.01, value: Math.log10(start.lipschitz), words: (v) => plain(constantAt(v)),
      change: update,
    });
    const noise = slider({
      label: "σ, noise level", min: 0.05, max: 1, step: 0.05, value: start.sigma,
      words: (s) => s.toFixed(2), change: update,
    });
    const reset = make("button", { type: "button", click: () => {
      score.value = quantile(start.score);
      steep.value = Math.log10(start.lipschitz);
      noise.value = start.sigma;
      update();
    } }, "Reset");
    const result = make("p", { class: "widget-result" });
    const numbers = make("div", { class: "widget-table" });
    const voice = status();
    const now = () => [scoreAt(score.value), noise.value, constantAt(steep.value)];

    const lines = (chart, xs, at) => RADII.map(([name, hue, radius]) =>
      chart.path(xs.map((x) => [x, radius(...at(x))]), { class: `curve ${hue} ${name}` }));

    function cursor(chart, x) {
      return [
        line(chart.sx(x), chart.top, chart.sx(x), chart.base, { class: "guide" }),
        ...RADII.map(([, hue, radius]) => draw("circle", {
          class: `dot ${hue}`, cx: chart.sx(x), cy: chart.sy(radius(...now())), r: 5,
        })),
      ];
    }

    function againstScore(width, height) {
      const [p, sigma, constant] = now();
      const top = 1.05 * radiusExact(normal(Z_MAX), sigma, constant);
      const chart = axes({
        width, height,
        x: { range: [0, Z_MAX], label: "mean score p of A",
          ticks: [0.5, 0.8, 0.95, 0.99, 0.999].map((q) => [quantile(q), String(q)]) },
        y: { range: [0, top], label: "radius", ticks: ticks(top) },
      });
      const zs = linspace(1e-3, Z_MAX, 80);
      return [chart.frame, ...lines(chart, zs, (z) => [normal(z), sigma, constant]),
        ...cursor(chart, quantile(p)),
        text(chart.left + 8, chart.top + 8, `L = ${plain(constant)}`, { class: "strong" })];
    }

    function againstConstant(width, height) {
      const [p, sigma, constant] = now();
      const range = [0.8 * radiusMono(p, sigma), 1.25 * radiusExact(p, sigma, STEEP[0])];
      const marks = [0.001, 0.01, 0.1, 1, 10].flatMap((d) => [d, 2 * d, 5 * d])
        .filter((v) => v >= range[0] && v <= range[1]);
      const few = marks.length > 5 ? marks.filter((v) => /^[0.]*1/.test(String(v))) : marks;
      const chart = axes({
        width, height,
        x: { range: STEEP, log: true, label: "Lipschitz constant L",
          ticks: [0.1, 1, 10].map((v) => [v, String(v)]) },
        y: { range, log: true, label: "radius", ticks: few.map((v) => [v, plain(v)]) },
      });
      const constants = linspace(...STEEP.map(Math.log), 80).map(Math.exp);
      return [chart.frame, ...lines(chart, constants, (c) => [p, sigma, c]),
        ...cursor(chart, constant),
        text(chart.right - 8, chart.top + 8, `p = ${plain(p)}`,
          { class: "strong", "text-anchor": "end" })];
    }

    const first = drawing(290, "Three radii against the mean score", againstScore);
    const second = drawing(290, "Three radii against the Lipschitz constant", againstConstant);

    function swatch(name, hue) {
      const sample = draw("svg", { width: 34, height: 10, "aria-hidden": "true" },
        line(1, 5, 33, 5, { class: `curve ${hue} ${name}` }));
      return make("span", { class: "widget-key" }, sample, ` ${name}`);
    }

    function update() {
      const [p, sigma, constant] = now();
      const values = RADII.map(([, , radius]) => radius(p, sigma, constant));
      const worth = (100 * (values[0] / values[2] - 1)).toFixed(values[0] < 2 * values[2] ? 1 : 0);
      const rows = RADII.map(([name, hue], i) =>
        [swatch(name, hue), decimals(values[i], 4, "down"),
          decimals(values[i] / sigma, 4, "down")]);
      numbers.replaceChildren(table([["method", "radius", "in units of σ"], ...rows]));
      result.replaceChildren(
        `At p = ${plain(p)}, σ = ${sigma.toFixed(2)} and L = ${plain(constant)} the constant `,
        "is worth ", make("b", {}, `${worth} %`), " on top of Cohen’s radius. Only the product Lσ = ",
        make("b", {}, plain(constant * sigma)), " matters in units of σ.");
      voice.say(`${result.textContent} ${RADII.map(([name], i) =>
        `${name}: ${decimals(values[i], 4, "down")}`).join(", ")}.`);
      first.repaint();
      second.repaint();
    }
    update();
    return [
      make("div", { class: "widget-inputs" }, score.element, steep.element, noise.element),
      make("div", { class: "widget-pair" }, first.box, second.box),
      make("p", { class: "widget-buttons" }, reset),
      numbers, result, voice.element,
    ];
  });
})();
