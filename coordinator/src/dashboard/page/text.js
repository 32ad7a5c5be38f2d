// How figures are written: short, of equal width, the same for everyone.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export const count = (n) => whole.format(n);

export const plural = (n, one, many = one + "s") => `${count(n)} ${n === 1 ? one : many}`;

export function short(n) {
  for (const [size, sign] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (n >= 10 * size || (sign !== "k" && n >= size)) {
      return `${(n / size).toFixed(1)}${sign}`;
    }
  }
  return n < 10 && n % 1 ? n.toFixed(1) : whole.format(n);
}

export function bytes(n) {
  let unit = 0;
  while (n >= 1024 && unit < UNITS.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${unit && n < 100 ? n.toFixed(1) : whole.format(n)} ${UNITS[unit]}`;
}

// Two amounts in the unit of the larger.
export function bytesOf(part, total) {
  const [size, unit] = bytes(total).split(" ");
  const scale = 1024 ** UNITS.indexOf(unit);
  const digits = size.includes(".") ? 1 : 0;
  return `${(part / scale).toFixed(part === 0 ? 0 : digits)} of ${size} ${unit}`;
}

export function span(seconds) {
  if (seconds < 0.1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 172800) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// A forecast is no measurement: rounded to what it may be good for.
export function about(seconds) {
  if (seconds < 10) return "a few seconds";
  if (seconds < 60) return `about ${Math.ceil(seconds / 10) * 10} s`;
  if (seconds < 600) return `about ${Math.ceil(seconds / 60)} min`;
  if (seconds < 3600) return `about ${Math.ceil(seconds / 300) * 5} min`;
  const minutes = Math.round(seconds / 600) * 10;
  if (minutes < 2880) return `about ${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  return `about ${Math.round(seconds / 86400)} days`;
}

// Never 100 before the end, never 0 after the begin.
export function percent(part, total) {
  if (!total || part >= total) return total ? "100%" : "";
  const value = (100 * part) / total;
  return part > 0 && value < 1 ? "under 1%" : `${Math.floor(value)}%`;
}

// Money in billionths.
export function money(nanos) {
  const units = nanos / 1e9;
  if (units > 0 && units < 1e-4) return "under 0.0001";
  return units >= 100 ? units.toFixed(0) : units >= 0.01 || units === 0 ? units.toFixed(2) : units.toFixed(4);
}

export const amount = (units) => (units >= 100 || units % 1 === 0 ? whole.format(units) : units.toFixed(2));

export const clock = (date) => date.toTimeString().slice(0, 8);
