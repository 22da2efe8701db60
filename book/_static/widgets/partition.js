/* Class partitioning, one decision at a time. */

(() => {
  "use strict";
  const { ranked, partition, total, certify, lowerBound, upperBound } = lipsmooth;
  const { make, draw, decimals, grouped, field, status, table, drawing, text, line,
    mount } = lipsmooth.ui;

  const HUES = ["blue", "vermilion", "green", "orange", "purple", "sky"];
  const list = (classes) => classes.join(", ");

  /** One image: its buckets, their bounds, and what is said at each step. */
  function study({ selection, estimation }, { alpha, sigma }) {
    const order = ranked(selection), [a, b] = order;
    const buckets = partition(selection), m = buckets.length, level = alpha / m;
    const n = total(estimation);
    const sums = buckets.map((bucket) => total(bucket.map((c) => estimation[c])));
    const bounds = sums.map((k, i) => (i ? upperBound : lowerBound)(k, n, level));
    const [cpm, best] = ["cpm", "max-upper"].map((strategy) =>
      certify(selection, estimation, { sigma, alpha, strategy }));

    const votes = selection[b];
    const rest = (single) => total(order.slice(single).map((c) => selection[c]));
    const plan = [
      { single: 0, words: `The ${total(selection)} selection votes, class by class.` },
      { single: 2, words:
        `Sort by votes, ties by class number. Class ${a} has most and becomes A; ` +
        `class ${b} is the runner-up B. Each gets a bucket of its own. ` +
        "The others are the rest." },
    ];
    let single = 2;
    for (; rest(single) > votes; single++) {
      plan.push({ single: single + 1, words:
        `The rest has ${rest(single)} votes, more than the ${votes} of B. Take its ` +
        `largest class, ${order[single]}, out and give it a bucket of its own.` });
    }
    plan.push({ single, words: single < order.length
      ? `The rest has ${rest(single)} votes, not more than the ${votes} of B: stop. ` +
        `It is the last bucket, which makes m = ${m}.`
      : `No class is left over: stop, with m = ${m} buckets.` });
    const outcome = ({ prediction, radius }) =>
      prediction < 0 ? "abstains" : `certifies the radius ${decimals(radius, 4, "down")}`;
    plan.push({ bounds: true, words:
      `Now the ${grouped(n)} estimation votes, each bucket at the level α/m = ` +
      `${Number(level.toPrecision(3))}. A has a probability of at least ` +
      `${decimals(cpm.pA, 4, "down")}, any other class of at most ` +
      `${decimals(cpm.pB, 4, "up")}. Class partitioning ${outcome(cpm)}; ` +
      `max-upper ${outcome(best)} from the same votes, without buckets.` });
    return { selection, order, buckets, sums, bounds, n, cpm, plan, rest };
  }

  mount("partition", (start) => {
    let image, at;
    const choice = make("select", { change: () => show(start.images[choice.selectedIndex]) },
      start.images.map(({ name }) => make("option", {}, name)));
    const words = make("p", { class: "widget-result" });
    const count = make("span", { class: "widget-count" });
    const voice = status();
    const numbers = make("div", { class: "widget-table" });
    const turn = (name, to) => make("button", { type: "button", click: () => {
      at = Math.min(image.plan.length - 1, Math.max(0, to(at)));
      update();
    } }, name);
    const back = turn("Previous", (i) => i - 1), next = turn("Next", (i) => i + 1);
    const reset = turn("Reset", () => 0);

    /** Bars with a value above and a name below each; `scale` is the value of full height. */
    function bars(width, height, { values, names, hues, scale, write, label }) {
      const left = 26, right = width - 6, base = height - 44, upper = 34;
      const slot = (right - left) / values.length, thick = Math.min(56, 0.72 * slot);
      const sy = (v) => base - (v / scale) * (base - upper);
      const middle = (i) => left + (i + 0.5) * slot;
      const marks = values.flatMap((v, i) => [
        draw("rect", { class: `bar ${hues[i]}`, x: middle(i) - thick / 2, width: thick,
          y: sy(v), height: base - sy(v) }),
        text(middle(i), base + 17, names[i], { "text-anchor": "middle", class: "strong" }),
        text(middle(i), sy(v) - 5, write(v), { "text-anchor": "middle", class: "halo" }),
      ]);
      marks.push(draw("g", { class: "axes" }, line(left, base, right, base)),
        text((left + right) / 2, height - 6, label, { "text-anchor": "middle" }));
      return { left, right, thick, sy, middle, marks };
    }

    function paintVotes(width, height) {
      const { single } = image.plan[at], { selection, rest } = image;
      const order = single ? image.order : selection.map((_, c) => c);
      const values = order.map((c) => selection[c]);
      const chart = bars(width, height, {
        values, names: order.map(String), write: String,
        hues: order.map((_, i) => (i < single ? HUES[i % HUES.length] : "rest")),
        scale: Math.max(...values, rest(2)),
        label: single ? "class, by selection votes" : "class",
      });
      if (!single) return chart.marks;
      const { left, right, thick, sy, middle } = chart, level = sy(values[1]);
      const extra = [line(left, level, right, level, { class: "guide dashed" }),
        ...["A", "B"].map((name, i) => text(left - 8, sy(values[i]) + 4, name,
          { class: "strong", "text-anchor": "end" }))];
      if (values[0] === values[1]) extra.at(-1).textContent = "A, B";
      if (values[0] === values[1]) extra.splice(1, 1);
      if (single < values.length) {
        const from = middle(single) - thick / 2, to = middle(values.length - 1) + thick / 2;
        const y = sy(rest(single));
        extra.push(line(from, y, to, y, { class: "sum" }),
          text(to, y - 6, `rest: ${rest(single)}`, { class: "strong", "text-anchor": "end" }));
      }
      return [...chart.marks, ...extra];
    }

    function paintBounds(width, height) {
      const { buckets, sums, n, bounds, cpm } = image;
      const values = sums.map((k) => k / n);
      const { left, right, thick, sy, middle, marks } = bars(width, height, {
        values, write: () => "",
        names: buckets.map((bucket) => (bucket.length > 1 ? "rest" : String(bucket[0]))),
        hues: buckets.map((b, i) => (b.length > 1 ? "rest" : HUES[i % HUES.length])),
        scale: Math.max(...values, ...bounds),
        label: "bucket: share of the votes, and bound",
      });
      const gap = cpm.pA > cpm.pB ? [draw("rect", { class: "region", x: left, y: sy(cpm.pA),
        width: right - left, height: sy(cpm.pB) - sy(cpm.pA) })] : [];
      const limits = bounds.flatMap((bound, i) => [
        line(middle(i) - thick / 2, sy(bound), middle(i) + thick / 2, sy(bound), { class: "bound" }),
        text(middle(i), sy(Math.max(bound, values[i])) - 6,
          decimals(bound, 3, i ? "up" : "down"), { "text-anchor": "middle", class: "halo" }),
      ]);
      return [...gap, ...marks, ...limits];
    }

    const picture = drawing(290, "Votes by class, coloured by bucket", (width, height) =>
      (image.plan[at].bounds ? paintBounds : paintVotes)(width, height));

    function show(chosen) {
      image = study(chosen, start);
      at = 0;
      update();
    }

    function bucketTable() {
      const { buckets, selection, sums, bounds } = image;
      const name = (bucket, i) => (bucket.length > 1 ? `rest: ${list(bucket)}`
        : `${bucket[0]}${[" (A)", " (B)"][i] ?? ""}`);
      return table([
        ["bucket", "selection", "estimation", "bound"],
        ...buckets.map((bucket, i) => [
          name(bucket, i), grouped(total(bucket.map((c) => selection[c]))), grouped(sums[i]),
          i ? `p ≤ ${decimals(bounds[i], 4, "up")}` : `p ≥ ${decimals(bounds[i], 4, "down")}`,
        ]),
      ]);
    }

    function update() {
      const step = image.plan[at], last = image.plan.length - 1;
      words.textContent = step.words;
      count.textContent = `Step ${at + 1} of ${last + 1}`;
      voice.say(`${count.textContent}. ${step.words}`);
      // Kept focusable: a button that turns itself off would lose the keyboard's place.
      back.setAttribute("aria-disabled", at === 0);
      next.setAttribute("aria-disabled", at === last);
      numbers.replaceChildren(...(step.bounds ? [bucketTable()] : []));
      picture.repaint();
    }

    show(start.images[0]);
    return [
      make("div", { class: "widget-inputs" }, field("votes", choice)),
      make("p", { class: "widget-buttons" }, back, next, reset, count),
      picture.box, words, numbers, voice.element,
    ];
  });
})();
