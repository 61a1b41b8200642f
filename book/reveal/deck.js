// Starts reveal.js: plain slides, the number of each, a link for each in the address.
Reveal.initialize({
  width: 1280,
  height: 720,
  margin: 0.05,
  center: false,
  hash: true,
  slideNumber: "c/t",
  transition: "none",
});
