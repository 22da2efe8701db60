/* Shows a deck, and lets no slide be larger than its frame. */

const SMALLEST = 0.55; // of the usual size of the letters

/** Make the letters of the slide on show smaller until it fits. */
function fit() {
  const slide = Reveal.getCurrentSlide();
  const body = slide.querySelector(".body");
  const room = Reveal.getConfig().height;
  for (let scale = 1; scale >= SMALLEST; scale -= 0.05) {
    slide.style.setProperty("--scale", scale.toFixed(2));
    if (body.scrollHeight <= room && body.scrollWidth <= body.clientWidth) return;
  }
}

/** Start the deck, once its formulas are set. */
function present() {
  Reveal.on("ready", fit);
  Reveal.on("slidechanged", fit);
  return Reveal.initialize({
    width: 1280,
    height: 720,
    margin: 0,
    center: false,
    hash: true,
    slideNumber: "c/t",
    transition: "none",
    backgroundTransition: "none",
  });
}
