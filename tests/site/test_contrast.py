"""Whether every word of the site stands out from what lies behind it, as computed.

The checker of accessibility leaves open what it cannot decide, such as words on a
striped table; here the colours are added up, layer by layer. `test_site` asks it of
every page. What it leaves out: words in pictures.
"""

from typing import Any

# WCAG 2.2, success criterion 1.4.3: 4.5 to 1, or 3 to 1 for large words.
FAINT = """() => {
  const numbers = (colour) => {
    const found = colour.match(/[\\d.]+/g).map(Number);
    return [...found.slice(0, 3), found[3] ?? 1];
  };
  const over = (top, below) => [...[0, 1, 2].map((i) =>
    top[3] * top[i] + (1 - top[3]) * below[i]), 1];
  const light = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => {
    const c = colour[i] / 255;
    return sum + share * (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  }, 0);
  const known = new Map([[null, [255, 255, 255, 1]]]);
  const behind = (node) => {  // null: a picture, which is not a colour
    if (!known.has(node)) {
      const style = getComputedStyle(node), own = numbers(style.backgroundColor);
      const below = own[3] === 1 ? own : behind(node.parentElement);
      const picture = style.backgroundImage !== "none" || !below;
      known.set(node, picture ? null : over(own, below));
    }
    return known.get(node);
  };
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility({
      opacityProperty: true, visibilityProperty: true })) continue;
    if (node.closest("[aria-hidden=true], .visually-hidden, :disabled, script, style"))
      continue;
    const style = getComputedStyle(node), ground = behind(node);
    if (!ground) continue;
    const svg = node instanceof SVGElement;
    const [a, b] = [light(over(numbers(svg ? style.fill : style.color), ground)),
      light(ground)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
    const wanted = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const words = node.textContent.trim().slice(0, 40);
    if (ratio < wanted) faint.add(`${ratio.toFixed(2)} ${node.tagName}: ${words}`);
  }
  return [...faint];
}"""


def test_a_faint_word_is_found(browser: Any) -> None:
    page = browser.new_page()
    page.set_content(
        '<table style="background: #eee"><tr style="background: rgba(0, 0, 0, 0.3)">'
        '<td style="color: #888">faint</td><td style="color: #000">clear</td></table>'
    )
    found = page.evaluate(FAINT)
    page.close()
    assert [words.split(": ")[1] for words in found] == ["faint"]
