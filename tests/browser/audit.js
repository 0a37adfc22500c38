// What a careful reader would object to on the page as it is laid out now: a list of sentences, empty where all is well.
// Lengths are CSS pixels on the screen; colours are sRGB, contrast is WCAG 2's ratio of relative luminances.
(SMALLEST_TEXT) => {
  const TEXT_CONTRAST = 4.5, SHAPE_CONTRAST = 3, SLACK = 1;
  const faults = new Set();
  const root = document.documentElement;
  const right = root.clientWidth;

  const name = (element) => {
    const words = element.textContent.trim().replace(/\s+/g, " ").slice(0, 40);
    const classes = element.getAttribute("class");
    return `<${element.localName}${classes ? ` class="${classes}"` : ""}> "${words}"`;
  };
  const complain = (kind, element, found) => faults.add(`${kind}: ${name(element)}: ${found}`);
  const round = (number) => Math.round(number * 100) / 100;

  if (root.scrollWidth > right) complain("scrolls sideways", root, `${root.scrollWidth} of ${right} px`);

  // Colours

  const parse = (text) => {
    const numbers = text.match(/[\d.]+/g).map(Number);
    return { rgb: numbers.slice(0, 3), alpha: numbers.length > 3 ? numbers[3] : 1 };
  };
  const over = (front, back) => front.rgb.map((value, i) => front.alpha * value + (1 - front.alpha) * back[i]);
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const remembered = (compute) => {
    const known = new Map();
    return (element) => {
      if (!known.has(element)) known.set(element, compute(element));
      return known.get(element);
    };
  };
  const styleOf = remembered((element) => getComputedStyle(element));
  const background = remembered((element) => {
    if (!element) return [255, 255, 255];
    const layer = parse(styleOf(element).backgroundColor);
    return layer.alpha === 1 ? layer.rgb : over(layer, background(element.parentElement));
  });
  const opacity = remembered((element) => (element ? styleOf(element).opacity * opacity(element.parentElement) : 1));
  const painted = (element, colour) => {
    const front = parse(colour), back = background(element);
    return contrast(over({ rgb: front.rgb, alpha: front.alpha * opacity(element) }, back), back);
  };

  // Texts: each visible stretch of text with its boxes, one a line

  const isHidden = (element) => element.closest(".hidden, style, svg title, svg desc") !== null;
  const stretches = (node) => {
    // where white space is kept, that at the end of a line hangs out of its block, and harms nobody
    const isKept = styleOf(node.parentElement).whiteSpaceCollapse === "preserve";
    const words = isKept ? [...node.data.matchAll(/\S+/g)] : [{ index: 0, 0: node.data }];
    return words.flatMap((word) => {
      const range = document.createRange();
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      return [...range.getClientRects()];
    });
  };
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || isHidden(element)) continue;
    if (!element.checkVisibility({ visibilityProperty: true })) continue;
    const boxes = stretches(walker.currentNode).filter((box) => box.width > 0.5 && box.height > 0.5);
    if (boxes.length) texts.push({ node: walker.currentNode, element, boxes });
    else complain("text without a box", element, "nothing is shown");
  }

  const scale = (element) => {
    if (!(element instanceof SVGGraphicsElement)) return 1;
    const matrix = element.getScreenCTM();
    return Math.hypot(matrix.a, matrix.b);
  };
  const block = remembered((element) => {
    const isBlock = !(element instanceof SVGElement) && !["inline", "contents"].includes(styleOf(element).display);
    return isBlock ? element : block(element.parentElement);
  });
  const clippers = remembered((element) => {
    if (element === document.body) return [];
    const clips = !(element instanceof SVGElement) && styleOf(element).overflowX !== "visible";
    return clips ? [element, ...clippers(element.parentElement)] : clippers(element.parentElement);
  });
  const frameOf = remembered((element) => element.getBoundingClientRect());
  const isInside = (box, frame, slack) =>
    box.left >= frame.left - slack && box.right <= frame.right + slack &&
    box.top >= frame.top - slack && box.bottom <= frame.bottom + slack;

  for (const { element, boxes } of texts) {
    const style = styleOf(element);
    const size = parseFloat(style.fontSize) * scale(element);
    if (size < SMALLEST_TEXT - 0.05) complain("small text", element, `${round(size)} px`);
    const ratio = painted(element, element instanceof SVGElement ? style.fill : style.color);
    if (ratio < TEXT_CONTRAST) complain("faint text", element, `contrast ${round(ratio)}`);
    const holder = block(element);
    const frame = frameOf(holder);
    for (const box of boxes) {
      if (box.left < -SLACK || box.right > right + SLACK) complain("outside the window", element, round(box.right));
      if (box.left < frame.left - SLACK || box.right > frame.right + SLACK) {
        complain("sticks out", element, `of ${name(holder)} by ${round(Math.max(frame.left - box.left, box.right - frame.right))} px`);
      }
    }
    for (const place of clippers(element)) {
      const margin = styleOf(place).overflowX === "clip" ? parseFloat(styleOf(place).overflowClipMargin) || 0 : 0;
      // a line's box holds room above and below its letters, which may be cut
      const isWhole = boxes.every((box) => isInside(box, frameOf(place), margin + 0.25 * box.height));
      if (!isWhole) complain("cut", element, `by ${name(place)}`);
    }
  }

  // Two stretches overlap where the middle halves of their lines do

  const lines = texts.flatMap(({ node, element, boxes }) => boxes.map((box) => ({
    node, element,
    left: box.left + SLACK, right: box.right - SLACK,
    top: box.top + box.height / 4, bottom: box.bottom - box.height / 4,
  }))).sort((a, b) => a.top - b.top);
  lines.forEach((one, i) => {
    for (let j = i + 1; j < lines.length && lines[j].top < one.bottom; j++) {
      const other = lines[j];
      if (other.node !== one.node && other.left < one.right && one.left < other.right) {
        complain("overlap", one.element, `and ${name(other.element)}`);
      }
    }
  });

  // Boxes and plots

  for (const element of document.body.querySelectorAll("*")) {
    if (isHidden(element) || element instanceof SVGElement) continue;
    const box = element.getBoundingClientRect();
    if (box.width && (box.left < -SLACK || box.right > right + SLACK)) complain("outside the window", element, round(box.right));
  }
  for (const figure of document.querySelectorAll("figure")) {
    if (!figure.checkVisibility()) continue; // a plot that is drawn twice shows the form that suits the window
    const frame = figure.getBoundingClientRect();
    const plot = figure.querySelector(":scope > svg");
    if (!plot) { complain("no plot", figure, "a figure without an svg"); continue; }
    const box = plot.getBoundingClientRect();
    if (box.width < 200 || box.height < 80) complain("small plot", plot, `${round(box.width)} x ${round(box.height)} px`);
    if (!isInside(box, frame, SLACK)) complain("outside its figure", plot, "");
    let drawn = 0;
    for (const shape of plot.querySelectorAll("path, use, text")) {
      if (shape.closest("defs")) continue;
      const part = shape.getBoundingClientRect();
      if (!shape.hasAttribute("clip-path") && !isInside(part, frame, SLACK)) complain("outside its figure", shape, "");
      if (shape.localName !== "text" && part.width + part.height > 2) drawn++;
    }
    if (drawn < 4) complain("empty plot", plot, `${drawn} shapes`);
    const marks = ["line", "bound", "before", "after", "candidates", "written-candidate", "limits", "upper-limit"];
    for (const mark of marks) {
      for (const shape of plot.querySelectorAll(`[id$="-${mark}"] path:not(defs *), [id$="-${mark}"] use`)) {
        const ratio = painted(shape, styleOf(shape).stroke);
        if (ratio < SHAPE_CONTRAST) complain("faint line", plot, `${mark}, contrast ${round(ratio)}`);
      }
    }
  }

  // What a screen reader is told

  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  const twice = ids.find((id, i) => ids.indexOf(id) !== i);
  if (twice) complain("two elements of one id", document.getElementById(twice), twice);
  let level = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    const next = Number(heading.localName[1]);
    if (next > level + 1) complain("heading skips a level", heading, `after h${level}`);
    level = next;
  }
  for (const table of document.querySelectorAll("table")) {
    if (!table.caption?.textContent.trim()) complain("table without a caption", table, "");
    for (const cell of table.tBodies.length ? table.querySelectorAll("tbody tr") : []) {
      if (!cell.querySelector("th[scope]")) complain("row without a header", cell, "");
    }
  }
  for (const image of document.querySelectorAll("svg")) {
    if (image.getAttribute("aria-hidden") === "true") continue;
    const labels = (image.getAttribute("aria-labelledby") || "").split(" ").map((id) => document.getElementById(id));
    if (image.getAttribute("role") !== "img" || !labels.every((label) => label?.textContent.trim())) {
      complain("image without words", image, "");
    }
  }
  return [...faults].slice(0, 25);
}
