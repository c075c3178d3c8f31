// Axes: from values to places, linear or logarithmic, with round ticks.

export function linear(low, high, from, to) {
  if (low === high) {
    const margin = Math.abs(low) || 1;
    low -= margin / 2;
    high += margin / 2;
  }
  const place = (value) => from + ((value - low) / (high - low)) * (to - from);
  return { place, ticks: (most) => roundTicks(low, high, most), low, high };
}

export function logarithmic(low, high, from, to) {
  const inner = linear(Math.log10(low), Math.log10(high), from, to);
  const ticks = (most) => {
    const first = Math.ceil(inner.low - 1e-9);
    const last = Math.floor(inner.high + 1e-9);
    if (last <= first) return roundTicks(10 ** inner.low, 10 ** inner.high, most).filter((tick) => tick > 0);
    const every = Math.max(1, Math.ceil((last - first + 1) / most));
    const powers = [];
    for (let power = first; power <= last; power += every) powers.push(10 ** power);
    return powers;
  };
  return { place: (value) => inner.place(Math.log10(value)), ticks, low: 10 ** inner.low, high: 10 ** inner.high };
}

function roundTicks(low, high, most) {
  const rough = (high - low) / most;
  if (!(rough > 0) || !Number.isFinite(rough)) return [];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999) ?? 10 * power;
  const ticks = [];
  for (let index = Math.ceil(low / step); index * step <= high * (1 + 1e-12) + 1e-300 && ticks.length < 20; index++) {
    ticks.push(Number((index * step).toPrecision(12)));
  }
  return ticks;
}

// A logarithmic axis where values of one sign spread over more than a factor of fifty.
export function vertical(values, from, to) {
  const finite = values.filter(Number.isFinite);
  if (!finite.length) return { ...linear(0, 1, from, to), empty: true };
  const low = finite.reduce((a, b) => Math.min(a, b));
  const high = finite.reduce((a, b) => Math.max(a, b));
  if (low > 0 && high / low > 50) return { ...logarithmic(low / 1.3, high * 1.3, from, to), log: true };
  if (low === high) return linear(low, high, from, to);
  // What moves by less than a thousandth is shown as the flat line that it is.
  const margin = Math.max(0.06 * (high - low), 0.0005 * Math.max(Math.abs(low), Math.abs(high)));
  return linear(low - margin, high + margin, from, to);
}
