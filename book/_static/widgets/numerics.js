/* The arithmetic of the interactive figures: what lipsmooth.intervals, .ramp, .radii and
   .strategies compute, from first principles. Nothing here touches the page.

   One idea serves three inverses. The normal distribution, a binomial tail as a function
   of the log-odds and the mean of the ramp have a logarithm that is increasing and
   concave. So its tangent lies above it: Newton's method oversteps the root to the left
   at most once, and from there every step goes right without passing it. */

(() => {
  "use strict";

  const ROOT_TAU = Math.sqrt(2 * Math.PI);

  /** Solve f(t) = target, f increasing and concave; f returns [value, slope]. */
  function solveConcave(f, target, start) {
    let t = start;
    for (let i = 0; i < 200; i++) {
      const [value, slope] = f(t);
      const step = (target - value) / slope;
      t += step;
      // After the first, a step that does not go right is rounding.
      if (i > 0 && !(step > 2e-16 * (1 + Math.abs(t)))) break;
    }
    return t;
  }

  // The normal distribution

  const density = (x) => Math.exp((-x * x) / 2) / ROOT_TAU;

  /** (1 - Φ(x)) / φ(x) for x >= 0, to a few units of the last place. */
  function mills(x) {
    if (x < 2) {
      let term = x, sum = x;
      for (let odd = 3; term > 1e-17 * sum; odd += 2) {
        term *= (x * x) / odd;
        sum += term;
      }
      return 0.5 / density(x) - sum;
    }
    let tail = x; // Laplace's continued fraction, from its end
    for (let i = 120; i > 0; i--) tail = x + i / tail;
    return 1 / tail;
  }

  /** Φ(x), with full relative precision in the lower tail. */
  function normal(x) {
    return x < 0 ? density(x) * mills(-x) : 1 - density(x) * mills(x);
  }

  /** Φ⁻¹(p); infinite at 0 and 1. */
  function quantile(p) {
    if (p > 0.5) return -quantile(1 - p);
    if (!(p > 0 && p < 0.5)) return p === 0.5 ? 0 : p === 0 ? -Infinity : NaN;
    const tail = (t) => {
      const ratio = mills(-t);
      return [Math.log(ratio / ROOT_TAU) - (t * t) / 2, 1 / ratio];
    };
    return solveConcave(tail, Math.log(p), -Math.sqrt(-2 * Math.log(2 * p)));
  }

  // Clopper–Pearson bounds

  /** ln k! minus Stirling's (k + 1/2) ln k - k + ln sqrt(2π), for whole k >= 1. */
  function stirlingError(k) {
    if (k < 16) {
      let factorial = 1;
      for (let i = 2; i <= k; i++) factorial *= i;
      return Math.log(factorial / ROOT_TAU) - (k + 0.5) * Math.log(k) + k;
    }
    const s = 1 / (k * k);
    const tail = 1 / 1260 - s * (1 / 1680 - s / 1188);
    return (1 / 12 - s * (1 / 360 - s * tail)) / k;
  }

  /** k ln(k / mean) + mean - k, the deviance of a count from its mean. */
  function deviance(k, mean) {
    const u = (mean - k) / k; // exact where the logarithm needs it to be
    return mean - k - k * (Math.abs(u) < 0.5 ? Math.log1p(u) : Math.log(mean / k));
  }

  /** ln P(X = k) for X binomial with n trials at these log-odds (Loader 2000). */
  function logMass(k, n, odds) {
    if (k === n) return -n * Math.log1p(Math.exp(-odds));
    const p = 1 / (1 + Math.exp(-odds)), q = 1 / (1 + Math.exp(odds));
    const scale = Math.log(n / k / (n - k)) / 2 - Math.log(ROOT_TAU);
    const rounding = stirlingError(n) - stirlingError(k) - stirlingError(n - k);
    return scale + rounding - deviance(k, n * p) - deviance(n - k, n * q);
  }

  /** ln P(X >= k), 1 <= k <= n, and its derivative with respect to the log-odds. */
  function logTail(k, n, odds) {
    const factor = Math.exp(odds);
    let term = 1, sum = 1; // in units of P(X = k)
    for (let j = k; j < n; j++) {
      const ratio = ((n - j) / (j + 1)) * factor;
      term *= ratio;
      sum += term;
      if (ratio < 1 && term * ratio < 1e-17 * sum * (1 - ratio)) break;
    }
    return [logMass(k, n, odds) + Math.log(sum), k / (1 + factor) / sum];
  }

  /** Log-odds of the p with P(X >= k) = alpha, the lower bound for k of n votes. */
  function boundOdds(k, n, alpha) {
    if (k === 0) return -Infinity;
    const spread = Math.sqrt(1 / k + 1 / (n - k + 1));
    // Not far to the right of the root, where the tangent is all but level.
    const start = Math.log(k / (n - k + 1)) + Math.min(0, quantile(alpha)) * spread;
    return solveConcave((odds) => logTail(k, n, odds), Math.log(alpha), start);
  }

  /** Exact one-sided lower bound for a probability, after k of n votes. */
  function lowerBound(k, n, alpha) {
    return 1 / (1 + Math.exp(-boundOdds(k, n, alpha)));
  }

  /** Its mirror image, the upper bound. */
  function upperBound(k, n, alpha) {
    return 1 / (1 + Math.exp(boundOdds(n - k, n, alpha)));
  }

  // The ramp, in units of sigma: its half-width is 1 / (2 L sigma)

  /** E max(Z + v, 0). */
  function overshoot(v) {
    if (v > 0) return v + overshoot(-v);
    return density(v) * (1 + v * mills(-v));
  }

  /** Mean of the ramp at t, and its slope there. */
  function ramp(t, half) {
    const mean = (overshoot(t + half) - overshoot(t - half)) / (2 * half);
    return [mean, (normal(t + half) - normal(t - half)) / (2 * half)];
  }

  /** The t with mean p, of the sign of p - 1/2. */
  function rampInverse(p, half) {
    if (p > 0.5) return -rampInverse(1 - p, half);
    if (!(p > 0 && p < 0.5)) return quantile(p);
    const log = (t) => {
      const [mean, slope] = ramp(t, half);
      return [Math.log(mean), slope / mean];
    };
    return solveConcave(log, Math.log(p), quantile(p) - half);
  }

  // Radii; zero or less certifies nothing

  const radiusMono = (p, sigma) => sigma * quantile(p);
  const radiusMulti = (pA, pB, sigma) => (sigma / 2) * (quantile(pA) - quantile(pB));

  function radiusExact(p, sigma, lipschitz) {
    return sigma * rampInverse(p, 0.5 / (lipschitz * sigma));
  }

  /** As published by Delattre et al. (2025), with the slope at the centre. */
  function radiusPublished(p, sigma, lipschitz) {
    if (p > 0.5) return -radiusPublished(1 - p, sigma, lipschitz);
    const half = 0.5 / (lipschitz * sigma);
    const z = quantile(p), slope = ramp(rampInverse(p, half), half)[1];
    return (sigma * z * density(z)) / slope;
  }

  // From votes to a certificate

  /** Classes by decreasing votes, ties by smaller class. */
  function ranked(votes) {
    return votes.map((_, c) => c).sort((a, b) => votes[b] - votes[a] || a - b);
  }

  const total = (votes) => votes.reduce((sum, v) => sum + v, 0);

  /** The buckets of class partitioning, made from the selection votes. */
  function partition(selection) {
    const order = ranked(selection);
    const weight = (classes) => total(classes.map((c) => selection[c]));
    let single = Math.min(2, order.length);
    while (weight(order.slice(single)) > selection[order[1]]) single++;
    const buckets = order.slice(0, single).map((c) => [c]);
    return single < order.length ? [...buckets, order.slice(single)] : buckets;
  }

  /** How a strategy spends alpha: its level, and the votes that bound the rivals. */
  const STRATEGIES = {
    mono: (s, e, alpha) => [alpha, null],
    bonferroni: (s, e, alpha, rival) => [alpha / e.length, rival],
    cpm: (s, e, alpha) => {
      const buckets = partition(s);
      const votes = buckets.slice(1).map((b) => total(b.map((c) => e[c])));
      return [alpha / buckets.length, Math.max(...votes)];
    },
    "max-upper": (s, e, alpha, rival) => [alpha / 2, rival],
  };

  function check(name, votes) {
    if (votes.length < 2) throw new RangeError(`${name}: at least two classes`);
    if (!votes.every((v) => Number.isSafeInteger(v) && v >= 0))
      throw new RangeError(`${name} must be whole numbers, at least 0`);
    if (!total(votes)) throw new RangeError(`${name}: there are none`);
  }

  /** Certify one image, as lipsmooth.certify.certify_counts does. */
  function certify(selection, estimation, { sigma, alpha, strategy }) {
    check("selection votes", selection);
    check("estimation votes", estimation);
    if (selection.length !== estimation.length)
      throw new RangeError(
        `selection votes for ${selection.length} classes, ` +
          `estimation votes for ${estimation.length}`,
      );
    if (!(alpha > 0 && alpha < 1)) throw new RangeError("α must lie between 0 and 1");
    if (!(sigma > 0 && sigma < Infinity)) throw new RangeError("σ must be positive");
    const n = total(estimation), top = ranked(selection)[0];
    const rival = Math.max(...estimation.filter((_, c) => c !== top));
    const spend = STRATEGIES[strategy];
    const [level, votes] = spend(selection, estimation, alpha, rival);
    const pA = lowerBound(estimation[top], n, level);
    const pB = votes === null ? 1 - pA : upperBound(votes, n, level);
    const one = pB === 1 - pA;
    const radius = one ? radiusMono(pA, sigma) : radiusMulti(pA, pB, sigma);
    const certified = radius > 0;
    return {
      top, level, pA, pB, n,
      prediction: certified ? top : -1,
      radius: certified ? radius : 0,
    };
  }

  window.lipsmooth = Object.assign(window.lipsmooth ?? {}, {
    normal, density, quantile, lowerBound, upperBound, ramp, rampInverse,
    radiusMono, radiusMulti, radiusExact, radiusPublished,
    ranked, partition, total, certify, strategies: Object.keys(STRATEGIES),
  });
})();
