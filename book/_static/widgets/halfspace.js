/* The worst case: two Gaussians one attack apart, and the half-space that loses most. */

(() => {
  "use strict";
  const { normal, quantile, radiusMono } = lipsmooth;
  const { make, draw, rich, decimals, slider, status, drawing, text, line, axes, linspace,
    mount, unique } = lipsmooth.ui;

  const FARTHEST = 4; // largest attack on the slider, in units of sigma

  mount("halfspace", (start) => {
    let move = start.move; // of the attack, in units of sigma; kept apart from its slider
    const share = slider({
      label: "p_A, vote share at x", min: 0.51, max: 0.99, step: 0.01, value: start.share,
      words: (p) => p.toFixed(2), change: update,
    });
    const attack = slider({
      label: "r = ‖δ‖, attack", min: 0, max: FARTHEST, step: 0.01, value: move,
      words: () => `${decimals(move, 3)} σ`,
      change: () => moveTo(attack.value),
    });
    const noise = slider({
      label: "σ, noise level", min: 0.05, max: 1, step: 0.05, value: start.sigma,
      words: (s) => s.toFixed(2), change: update,
    });
    const jump = make("button", { type: "button", click: () => moveTo(edge()) },
      "Move to the radius");
    const reset = make("button", { type: "button", click: () => {
      [share.value, noise.value] = [start.share, start.sigma];
      moveTo(start.move);
    } }, "Reset");
    const result = make("p", { class: "widget-result" });
    const voice = status();
    const edge = () => quantile(share.value); // of the half-space, and the radius / sigma
    const left = () => normal(edge() - move);

    function moveTo(distance) {
      move = Math.min(FARTHEST, Math.max(0, distance));
      attack.value = move;
      update();
    }

    const glow = unique("glow"), clip = unique("clip");
    let plane, chart; // as last drawn: where their scales lie

    function paintPlane(width, height) {
      const foot = height - 42, middle = foot / 2;
      const unit = Math.min(width / 7.6, foot / 5), centre = (width - 1.6 * unit) / 2;
      const sx = (u) => centre + u * unit;
      plane = { centre, unit };
      const cloud = (at, style) => draw("g", { class: style },
        draw("circle", { cx: sx(at), cy: middle, r: 3 * unit, fill: `url(#${glow}-${style})` }),
        [1, 2].map((s) =>
          draw("circle", { class: "ring", cx: sx(at), cy: middle, r: s * unit })));
      const gradient = (style) => draw("radialGradient", { id: `${glow}-${style}` },
        linspace(0, 1, 9).map((s) => draw("stop", {
          offset: s, class: style,
          "stop-opacity": (0.5 * Math.exp((-9 * s * s) / 2)).toFixed(4),
        })));
      const wall = sx(edge()), here = sx(move);
      const reach = Math.floor((width - centre) / unit - 0.3);
      const ticks = linspace(-reach, reach, 2 * reach + 1).filter((u) => sx(u) > 8).map((u) => [
        line(sx(u), foot, sx(u), foot + 4, { class: "tick" }),
        text(sx(u), foot + 17, String(u).replace("-", "−"), { "text-anchor": "middle" }),
      ]);
      return [
        draw("defs", {}, gradient("before"), gradient("after"),
          draw("clipPath", { id: clip }, draw("rect", { width, height: foot }))),
        draw("g", { "clip-path": `url(#${clip})` },
          draw("rect", { class: "region", width: Math.max(0, wall), height: foot }),
          cloud(0, "before"), cloud(move, "after"),
          line(wall, 0, wall, foot, { class: "wall" })),
        text(8, 18, "answer A", { class: "strong" }),
        text(width - 8, 18, "another answer", { class: "strong", "text-anchor": "end" }),
        line(sx(0), middle, here, middle, { class: "arrow" }),
        draw("circle", { class: "point", cx: sx(0), cy: middle, r: 4 }),
        text(sx(0), middle - 10, "x", { class: "strong halo", "text-anchor": "middle" }),
        draw("circle", { class: "grip", cx: here, cy: middle, r: 10 }),
        text(here, middle + 27, "x + δ", { class: "strong halo", "text-anchor": "middle" }),
        line(0, foot, width, foot, { class: "tick" }),
        ...ticks.flat(),
        text(width / 2, height - 6, "position along the attack (σ)", { "text-anchor": "middle" }),
      ];
    }

    function paintCurve(width, height) {
      chart = axes({
        width, height,
        x: { range: [0, FARTHEST], label: "attack r (σ)",
          ticks: [0, 1, 2, 3, 4].map((v) => [v, String(v)]) },
        y: { range: [0, 1], label: "vote share of A at x + δ",
          ticks: [0, 0.25, 0.5, 0.75, 1].map((v) => [v, String(v)]) },
      });
      const { sx, sy } = chart, z = edge();
      const curve = linspace(0, FARTHEST, 161).map((r) => [r, normal(z - r)]);
      const flip = z > 2.4; // the label would leave the frame on the right
      return [
        draw("rect", { class: "region", x: chart.left, y: chart.top,
          width: sx(z) - chart.left, height: chart.base - chart.top }),
        line(chart.left, sy(0.5), chart.right, sy(0.5), { class: "guide" }),
        line(sx(z), chart.top, sx(z), chart.base, { class: "wall" }),
        text(sx(z) + (flip ? -6 : 6), chart.top + 12, `R = ${decimals(z, 3, "down")} σ`,
          { class: "strong", "text-anchor": flip ? "end" : "start" }),
        chart.frame,
        chart.path(curve, { class: "curve after" }),
        draw("circle", { class: "grip", cx: sx(move), cy: sy(left()), r: 7 }),
      ];
    }

    const picture = drawing(300, "The noise at x and at x + δ, and the half-space", paintPlane);
    const curve = drawing(300, "Vote share left to A against the attack", paintCurve);
    const dragging = (panel, value) => {
      const follow = (event) => {
        moveTo(value(event.clientX - panel.svg.getBoundingClientRect().left));
      };
      panel.svg.classList.add("draggable");
      panel.svg.addEventListener("pointerdown", (event) => {
        panel.svg.setPointerCapture(event.pointerId);
        follow(event);
      });
      panel.svg.addEventListener("pointermove", (event) => {
        if (panel.svg.hasPointerCapture(event.pointerId)) follow(event);
      });
    };
    dragging(picture, (x) => (x - plane.centre) / plane.unit);
    dragging(curve, (x) => (FARTHEST * (x - chart.left)) / (chart.right - chart.left));

    function update() {
      const p = share.value, sigma = noise.value, radius = radiusMono(p, sigma);
      const kept = left(), gap = move - edge();
      const verdict = Math.abs(gap) < 1e-12
        ? "exactly one half: here a tie is possible, and the ball of the certificate ends"
        : gap < 0 ? "still a majority" : "no longer a majority";
      result.replaceChildren(
        "At r = ", make("b", {}, `${decimals(move, 3)} σ = ${decimals(move * sigma, 3)}`),
        " the half-space keeps ", make("b", {}, decimals(kept, 4)),
        ` of the votes: ${verdict}. `, ...rich("Certified radius R = σ Φ⁻¹(p_A) = "),
        make("b", {}, decimals(radius, 4, "down")), ".");
      voice.say(result.textContent);
      picture.repaint();
      curve.repaint();
    }
    update();
    return [
      make("div", { class: "widget-inputs" }, share.element, attack.element, noise.element),
      make("div", { class: "widget-pair" }, picture.box, curve.box),
      make("p", { class: "widget-buttons" }, jump, reset),
      result, voice.element,
    ];
  });
})();
