// ThumbHash: decodes about 25 bytes to a blurred image, after the reference implementation
// (E. Wallace, 2023, MIT).

const LONGER_SIDE = 32;

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
}

function header(hash) {
  const first = hash[0] | (hash[1] << 8) | (hash[2] << 16);
  const second = hash[3] | (hash[4] << 8);
  const alpha = Boolean(first >> 23);
  const landscape = Boolean(second >> 15);
  const long = alpha ? 5 : 7;
  return {
    luma: (first & 63) / 63,
    yellow: ((first >> 6) & 63) / 31.5 - 1,
    red: ((first >> 12) & 63) / 31.5 - 1,
    lumaScale: ((first >> 18) & 31) / 31,
    yellowScale: ((second >> 3) & 63) / 63,
    redScale: ((second >> 9) & 63) / 63,
    alpha,
    opacity: alpha ? (hash[5] & 15) / 15 : 1,
    opacityScale: alpha ? (hash[5] >> 4) / 15 : 0,
    across: Math.max(3, landscape ? long : second & 7),
    down: Math.max(3, landscape ? second & 7 : long),
  };
}

// Return a function that reads the terms of the next channel: [column, row, value].
function reader(hash, start) {
  let index = 0;
  return (across, down, scale) => {
    const terms = [];
    for (let row = 0; row < down; row += 1) {
      for (let column = row ? 0 : 1; column * down < across * (down - row); column += 1) {
        const nibble = (hash[start + (index >> 1)] >> ((index & 1) << 2)) & 15;
        terms.push([column, row, (nibble / 7.5 - 1) * scale]);
        index += 1;
      }
    }
    return terms;
  };
}

const waves = (length) =>
  Array.from({ length }, (_, at) =>
    Array.from({ length: 8 }, (_, frequency) => Math.cos((Math.PI / length) * (at + 0.5) * frequency)),
  );

function sum(start, terms, x, y) {
  return terms.reduce((value, [column, row, term]) => value + term * x[column] * y[row] * 2, start);
}

export function decode(base64) {
  const hash = bytesOf(base64);
  const head = header(hash);
  const read = reader(hash, head.alpha ? 6 : 5);
  const luma = read(head.across, head.down, head.lumaScale);
  const yellow = read(3, 3, head.yellowScale * 1.25);
  const red = read(3, 3, head.redScale * 1.25);
  const opacity = head.alpha ? read(5, 5, head.opacityScale) : [];
  const ratio = head.across / head.down;
  const width = Math.max(1, Math.round(ratio > 1 ? LONGER_SIDE : LONGER_SIDE * ratio));
  const height = Math.max(1, Math.round(ratio > 1 ? LONGER_SIDE / ratio : LONGER_SIDE));
  const pixels = new ImageData(width, height);
  const columns = waves(width);
  const rows = waves(height);
  for (let at = 0; at < width * height; at += 1) {
    const x = columns[at % width];
    const y = rows[Math.floor(at / width)];
    const l = sum(head.luma, luma, x, y);
    const p = sum(head.yellow, yellow, x, y);
    const q = sum(head.red, red, x, y);
    const b = l - (2 / 3) * p;
    const r = (3 * l - b + q) / 2;
    const a = head.alpha ? sum(head.opacity, opacity, x, y) : 1;
    pixels.data.set([r, r - q, b, a].map((level) => 255 * level), at * 4);
  }
  return pixels;
}

// Paint a placeholder onto a canvas; an invalid hash leaves it empty.
export function paint(canvas, base64) {
  try {
    const pixels = decode(base64);
    canvas.width = pixels.width;
    canvas.height = pixels.height;
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  } catch {
    canvas.width = 0;
  }
}
