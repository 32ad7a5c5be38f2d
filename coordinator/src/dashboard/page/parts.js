// Pieces of the page. What comes from a run is only ever the text of an element.

const SVG = "http://www.w3.org/2000/svg";

export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

export function drawn(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// Sets a text only where it differs, so that selections and screen readers are left alone.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Makes the children of `parent` those of `items`: kept where the key is the same, in this order.
export function list(parent, items, keyOf, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const [index, item] of items.entries()) {
    const key = String(keyOf(item, index));
    let child = known.get(key);
    if (child) {
      known.delete(key);
    } else {
      child = create(item);
      child.dataset.key = key;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, item);
  }
  for (const child of known.values()) child.remove();
}

// A bar of what is done, what was there before, and what was given up.
export function makeBar() {
  const bar = make("div", "bar", make("span", "reused"), make("span", "done"), make("span", "lost"));
  bar.setAttribute("role", "progressbar");
  bar.setAttribute("aria-valuemin", "0");
  bar.setAttribute("aria-valuemax", "100");
  return bar;
}

export function setBar(bar, part, label, text) {
  const total = part.total || 0;
  const share = (n) => (total ? Math.min(1, n / total) : 0);
  const [reused, done, lost] = bar.children;
  reused.style.width = `${100 * share(part.reused)}%`;
  done.style.width = `${100 * share(Math.max(0, part.done - part.reused))}%`;
  lost.style.width = `${100 * share(part.given_up)}%`;
  bar.setAttribute("aria-label", label);
  bar.setAttribute("aria-valuenow", String(Math.floor(100 * share(part.done))));
  bar.setAttribute("aria-valuetext", text);
}

// An area over equal spans of time, with the largest value at its top.
export function area(values, label) {
  const [width, height] = [600, 120];
  const largest = Math.max(...values, 0) || 1;
  const step = width / Math.max(1, values.length - 1);
  const points = values.map((value, i) => `${(i * step).toFixed(1)},${(height - (value / largest) * (height - 6)).toFixed(1)}`);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label, class: "area" });
  svg.append(drawn("line", { x1: 0, x2: width, y1: 6, y2: 6, class: "grid" }));
  svg.append(drawn("line", { x1: 0, x2: width, y1: height / 2 + 3, y2: height / 2 + 3, class: "grid" }));
  if (points.length > 1) {
    svg.append(drawn("path", { d: `M0,${height} L${points.join(" L")} L${width},${height} Z`, class: "fill" }));
    svg.append(drawn("polyline", { points: points.join(" "), class: "line" }));
  }
  svg.append(drawn("line", { x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5, class: "axis" }));
  return svg;
}

// Bars of counts, side by side.
export function bars(values, label) {
  const [width, height] = [600, 120];
  const largest = Math.max(...values, 0) || 1;
  const step = width / Math.max(values.length, 8);
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label, class: "bars" });
  svg.append(drawn("line", { x1: 0, x2: width, y1: 6, y2: 6, class: "grid" }));
  for (const [i, value] of values.entries()) {
    if (!value) continue;
    // One task of many is to be seen, too.
    const tall = Math.max(2, (value / largest) * (height - 6));
    svg.append(drawn("rect", { x: (i * step + 1).toFixed(1), y: (height - tall).toFixed(1), width: Math.max(1, step - 2).toFixed(1), height: tall.toFixed(1) }));
  }
  svg.append(drawn("line", { x1: 0, x2: width, y1: height - 0.5, y2: height - 0.5, class: "axis" }));
  return svg;
}
