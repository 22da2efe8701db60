/* From vote counts to a certificate, by each strategy. */

(() => {
  "use strict";
  const { certify, ranked, total, strategies } = lipsmooth;
  const { make, draw, rich, decimals, grouped, field, status, table, drawing, text, line,
    mount } = lipsmooth.ui;

  const SHOWN = 6; // classes in the picture
  const MOST_VOTES = 1e7; // up to which the arithmetic has been compared with the module
  const MOST_CLASSES = 1e5;
  const DIGITS = 5; // of the bounds

  const lower = (p) => decimals(p, DIGITS, "down");
  const upper = (p) => decimals(p, DIGITS, "up");
  const radiusText = (r) => decimals(r, 4, "down");

  /** Whole numbers separated by anything that is not part of one. */
  const parse = (words) => (words.match(/[^\s,;[\]()]+/g) ?? []).map(Number);

  mount("calculator", (start) => {
    const typed = (value, attributes) => make("input", {
      type: "text", inputmode: "numeric", autocomplete: "off", spellcheck: "false",
      value, input: update, ...attributes });
    const number = (value, attributes) =>
      make("input", { type: "number", value, input: update, ...attributes });

    const estimation = typed(""), selection = typed("");
    const same = make("input", { type: "checkbox", change: update });
    const classes = number("", { min: 2, max: MOST_CLASSES, step: 1 });
    const sigma = number(start.sigma, { min: 0, step: "any" });
    const alpha = number(start.alpha, { min: 0, max: 1, step: "any" });
    const strategy = make("select", { change: update }, strategies.map((name) =>
      make("option", { value: name, selected: name === start.strategy && "" }, name)));
    const example = make("select", { change: fill }, start.images.map(({ name }) =>
      make("option", {}, name)));

    const verdict = make("p", { class: "widget-verdict" });
    const detail = make("p", { class: "widget-result" });
    const warning = make("p", { class: "widget-warning", hidden: "" },
      "The class was chosen and bounded by the same votes. The bounds can then be wrong " +
        "more often than α: take this for a what-if, not for a certificate.");
    const numbers = make("div", { class: "widget-table" });
    const code = make("code", {}, "");
    const voice = status();
    let image = null; // what is certified, or null while an input is wrong
    const picture = drawing(250, "Share of the votes by class, and the two bounds", paint);

    function fill() {
      const chosen = start.images[example.selectedIndex];
      estimation.value = chosen.estimation.join(" ");
      selection.value = chosen.selection.join(" ");
      classes.value = chosen.classes ?? chosen.estimation.length;
      same.checked = false;
      update();
    }

    /** The inputs as numbers, or an error that names one of them. */
    function read() {
      const votes = parse(estimation.value);
      const first = same.checked ? votes : parse(selection.value);
      const size = classes.valueAsNumber, listed = Math.max(votes.length, first.length);
      if (!(Number.isInteger(size) && size >= Math.max(2, listed) && size <= MOST_CLASSES))
        throw new RangeError(`number of classes must be whole, at least ` +
          `${Math.max(2, listed)} and at most ${grouped(MOST_CLASSES)}`);
      for (const [name, list] of [["estimation", votes], ["selection", first]])
        if (total(list) > MOST_VOTES)
          throw new RangeError(`${name} votes: at most ${grouped(MOST_VOTES)}`);
      const pad = (list) => [...list, ...Array(size - list.length).fill(0)];
      return { selection: pad(first), estimation: pad(votes), listed: [first, votes],
        sigma: sigma.valueAsNumber, alpha: alpha.valueAsNumber };
    }

    function paint(width, height) {
      if (!image) return [];
      const { estimation: votes, certificate: { top, pA, pB, n } } = image;
      const order = [top, ...ranked(votes).filter((c) => c !== top)].slice(0, SHOWN);
      const left = 88, right = width - 14, base = height - 44, first = 24;
      const sx = (p) => left + p * (right - left);
      const slot = (base - first) / order.length, thick = Math.min(24, 0.6 * slot);
      const bars = order.flatMap((c, i) => {
        const y = first + (i + 0.5) * slot;
        return [
          draw("rect", { class: `bar ${i ? "vermilion" : "blue"}`, x: left, y: y - thick / 2,
            width: sx(votes[c] / n) - left, height: thick }),
          text(left - 8, y + 4, i ? `class ${c}` : `A: class ${c}`, {
            "text-anchor": "end", class: i ? "" : "strong" }),
        ];
      });
      const limit = (p, words, hue, end) => [
        line(sx(p), first - 8, sx(p), base, { class: `limit ${hue}` }),
        text(sx(p) + (end ? -5 : 5), first - 11, words, { class: "strong",
          "text-anchor": end ? "end" : "start" }),
      ];
      const apart = pA > pB;
      // The labels point away from each other, unless that leads out of the frame.
      const turn = (p, outward) => (outward ? sx(p) + 62 > right : sx(p) - 62 > left);
      return [
        apart ? draw("rect", { class: "region", x: sx(pB), y: first - 8,
          width: sx(pA) - sx(pB), height: base - first + 8 }) : "",
        ...bars,
        ...limit(pA, "p_A ≥", "blue", apart ? turn(pA, true) : turn(pA, false)),
        ...limit(pB, "p_B ≤", "vermilion", apart ? turn(pB, false) : turn(pB, true)),
        draw("g", { class: "axes" }, line(left, base, right, base),
          [0, 0.25, 0.5, 0.75, 1].flatMap((p) => [
            line(sx(p), base, sx(p), base + 4),
            text(sx(p), base + 18, String(p), { "text-anchor": "middle" })])),
        text((left + right) / 2, height - 6, "share of the estimation votes",
          { "text-anchor": "middle" }),
      ];
    }

    /** The same in Python. */
    function call({ listed, selection: all, sigma: s, alpha: a }) {
      const array = (votes) => {
        const gap = all.length - votes.length, list = `[[${votes.join(", ")}]]`;
        return gap ? `np.pad(${list}, ((0, 0), (0, ${gap})))` : list;
      };
      return `certify_counts(\n    ${array(listed[0])},\n    ${array(listed[1])},\n` +
        `    sigma=${s}, alpha=${a}, strategy="${strategy.value}")`;
    }

    function fail(message) {
      image = null;
      verdict.textContent = "No certificate";
      detail.textContent = `Please check: ${message}.`;
      numbers.replaceChildren();
      code.textContent = "";
    }

    function update() {
      selection.disabled = same.checked;
      warning.hidden = !same.checked;
      try {
        const input = read();
        const rows = strategies.map((name) =>
          [name, certify(input.selection, input.estimation, { ...input, strategy: name })]);
        const certificate = rows.find(([name]) => name === strategy.value)[1];
        const { top, level, pA, pB, n, prediction, radius } = certificate;
        image = { ...input, certificate };
        verdict.textContent = prediction < 0 ? "Abstain"
          : `Class ${top}, certified radius ${radiusText(radius)}`;
        const why = prediction < 0
          ? `Class ${top} was selected, but its bound does not exceed its rivals’: ` : "";
        detail.replaceChildren(...rich(
          `${why}p_A ≥ ${lower(pA)} and p_B ≤ ${upper(pB)}, from n = ${grouped(n)} votes, ` +
            `${strategy.value === "mono" ? "one" : "each"} bound at the level ` +
            `${Number(level.toPrecision(3))}.`));
        numbers.replaceChildren(table([
          ["strategy", "p_A ≥", "p_B ≤", "radius"],
          ...rows.map(([name, c]) => [name, lower(c.pA), upper(c.pB),
            c.prediction < 0 ? "abstain" : radiusText(c.radius)]),
        ], strategy.selectedIndex));
        code.textContent = call(input);
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        fail(error.message);
      }
      const wrong = detail.textContent;
      const marks = [[estimation, "estimation"], [selection, "selection"],
        [classes, "number of"], [sigma, "σ"], [alpha, "α"]];
      for (const [input, name] of marks)
        input.setAttribute("aria-invalid", !image && wrong.includes(`: ${name}`));
      voice.say(`${verdict.textContent}. ${detail.textContent}`);
      picture.repaint();
    }

    fill();
    const box = make("label", { class: "widget-check" }, same, " the same votes");
    const selectionField = field("selection votes", selection);
    selectionField.append(box);
    return [
      make("div", { class: "widget-inputs" },
        field("example", example), field("strategy", strategy)),
      make("div", { class: "widget-inputs wide" },
        field("estimation votes", estimation, "one number per class, class 0 first"),
        selectionField),
      make("div", { class: "widget-inputs" },
        field("σ, noise level", sigma),
        field("α, failure probability", alpha),
        field("number of classes", classes, "those not listed have no votes")),
      make("div", { class: "widget-answer" }, verdict, detail, warning),
      picture.box, numbers,
      make("details", {}, make("summary", {}, "The same in Python"), make("pre", {}, code)),
      voice.element,
    ];
  });
})();
